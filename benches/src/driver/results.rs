//! What was measured, as it is kept.

use crate::{machine::Machine, plan};
use serde::{Deserialize, Serialize};
use shmworker_benches::{Unit, quantile};

/// Of a whole run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) turns: usize,
    pub(crate) tables: Vec<Measured>,
}

/// Of one table.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) letter: String,
    pub(crate) title: String,
    pub(crate) case: String,
    pub(crate) rows: Vec<Row>,
}

/// Of one peer at one case.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) peer: String,
    pub(crate) unit: Option<Unit>,
    /// The median of each turn; `None` where it failed. A case with several figures has as many of these.
    pub(crate) turns: Vec<Vec<Option<f64>>>,
    /// Single trips, sorted.
    pub(crate) distribution: Vec<f64>,
    /// Why it has no figures, or fewer than turns.
    pub(crate) why: Option<String>,
}

impl Results {
    pub(crate) fn table(&self, case: &str) -> Option<&Measured> {
        // What follows may be how many.
        self.tables
            .iter()
            .find(|t| t.case == case || t.case.strip_prefix(case).is_some_and(|rest| rest.starts_with(' ')))
    }

    pub(crate) fn section(&self, letter: &str) -> impl Iterator<Item = &Measured> {
        self.tables.iter().filter(move |t| t.letter == letter)
    }
}

impl Measured {
    pub(crate) fn row(&self, peer: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.peer == peer && r.unit.is_some())
    }

    /// Of the turns' own ratios: what else the machine did met both alike.
    pub(crate) fn ratio(&self, peer: &str, to: &str) -> Option<Spread> {
        self.row(peer)?.over(self.row(to)?)
    }
}

impl Row {
    pub(crate) fn new(peer: &str) -> Row {
        Row { peer: peer.to_owned(), unit: None, turns: Vec::new(), distribution: Vec::new(), why: None }
    }

    /// The turns' own ratios. The other row is of the same turns.
    pub(crate) fn over(&self, other: &Row) -> Option<Spread> {
        let turns = self.turns.first()?.iter().zip(other.turns.first()?);
        Spread::of(turns.filter_map(|(a, b)| Some((*a)? / (*b)?)).collect())
    }

    /// Of the figure of this number.
    pub(crate) fn spread(&self, figure: usize) -> Option<Spread> {
        Spread::of(self.turns.get(figure)?.iter().flatten().copied().collect())
    }

    /// In a table of this case.
    pub(crate) fn title(&self, case: &str) -> &str {
        plan::find(&self.peer).map_or(&self.peer, |peer| peer.title_at(case))
    }
}

/// What the turns have shown.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    /// The 10th percentile.
    pub(crate) low: f64,
    pub(crate) median: f64,
    /// The 90th percentile.
    pub(crate) high: f64,
}

impl Spread {
    /// `None`: of nothing.
    fn of(values: Vec<f64>) -> Option<Spread> {
        let at = |q| quantile(values.iter().copied(), q);
        (!values.is_empty()).then(|| Spread { low: at(0.1), median: at(0.5), high: at(0.9) })
    }

    pub(crate) fn map(self, f: impl Fn(f64) -> f64) -> Spread {
        Spread { low: f(self.low), median: f(self.median), high: f(self.high) }
    }
}
