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

    pub(crate) fn median(&self, peer: &str) -> Option<f64> {
        Some(self.row(peer)?.quantile(0, 0.5))
    }

    /// The median of the turns' own ratios: what else the machine did met both alike.
    pub(crate) fn ratio(&self, peer: &str, to: &str) -> Option<f64> {
        let (a, b) = (self.row(peer)?, self.row(to)?);
        let ratios: Vec<f64> = a.turns[0].iter().zip(&b.turns[0]).filter_map(|(a, b)| Some((*a)? / (*b)?)).collect();
        (!ratios.is_empty()).then(|| quantile(ratios, 0.5))
    }
}

impl Row {
    /// Over the turns, of the figure of this number.
    pub(crate) fn quantile(&self, figure: usize, q: f64) -> f64 {
        quantile(self.turns[figure].iter().flatten().copied(), q)
    }

    pub(crate) fn title(&self) -> &str {
        plan::find(&self.peer).map_or(&self.peer, |p| p.title)
    }
}
