//! `--halt`: when no more jobs are begun, or those that run are ended too.

use std::str::FromStr;

/// When to stop, as GNU parallel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    Never,
    /// Begin no more.
    Soon(Limit),
    /// End those that run, too.
    Now(Limit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    of: Of,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Fail,
    Success,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Count(u64),
    Percent(u64),
}

impl FromStr for Halt {
    type Err = String;

    fn from_str(text: &str) -> Result<Halt, String> {
        let text = match text {
            "0" => "never",
            "1" => "soon,fail=1",
            "2" => "now,fail=1",
            "-1" => "soon,success=1",
            "-2" => "now,success=1",
            text => text,
        };
        let wrong = || {
            "it must be 'never', 'soon,fail=N' or 'now,fail=N', where 'fail' may be 'success' or 'done' and N a \
                        number or a percentage, such as 'soon,fail=10%'"
                .to_owned()
        };
        let limit = |text: &str| {
            let (of, at) = text.split_once('=')?;
            let of = match of {
                "fail" => Of::Fail,
                "success" => Of::Success,
                "done" => Of::Done,
                _ => return None,
            };
            let at = match at.strip_suffix('%') {
                Some(percent) => At::Percent(percent.parse().ok().filter(|n| (1..=100).contains(n))?),
                None => At::Count(at.parse().ok().filter(|&n| n > 0)?),
            };
            Some(Limit { of, at })
        };
        match text.split_once(',') {
            None if text == "never" => Ok(Halt::Never),
            None if text.ends_with('%') => limit(&format!("fail={text}")).map(Halt::Soon).ok_or_else(wrong),
            Some(("soon", rest)) => limit(rest).map(Halt::Soon).ok_or_else(wrong),
            Some(("now", rest)) => limit(rest).map(Halt::Now).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

impl Halt {
    /// Does a percentage need to know how many jobs there are?
    pub(super) fn is_share(self) -> bool {
        matches!(self, Halt::Soon(Limit { at: At::Percent(_), .. }) | Halt::Now(Limit { at: At::Percent(_), .. }))
    }

    /// Is it time, after so many jobs? `all`: how many there are, if that is known.
    pub(super) fn is_due(self, ended: u64, failed: u64, all: Option<u64>) -> bool {
        let (Halt::Soon(limit) | Halt::Now(limit)) = self else { return false };
        let n = match limit.of {
            Of::Fail => failed,
            Of::Success => ended - failed,
            Of::Done => ended,
        };
        match limit.at {
            At::Count(count) => n >= count,
            At::Percent(percent) => all.is_some_and(|all| n > 0 && n * 100 >= all * percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gnu_parallel_takes_is_understood() {
        let due = |text: &str, ended, failed, all| text.parse::<Halt>().unwrap().is_due(ended, failed, all);
        assert!(!due("never", 9, 9, Some(9)));
        assert!(due("soon,fail=2", 9, 2, None) && !due("soon,fail=2", 9, 1, None));
        assert!(due("now,success=3", 5, 2, None) && !due("now,success=4", 5, 2, None));
        assert!(due("now,done=5", 5, 0, None));
        assert!(due("soon,fail=20%", 5, 2, Some(10)) && !due("20%", 5, 1, Some(10)) && !due("20%", 5, 5, None));
        assert_eq!("2".parse(), "now,fail=1".parse::<Halt>());
        for wrong in ["", "soon", "later,fail=1", "now,fail", "now,fail=0", "now,fail=x", "soon,fail=101%", "3"] {
            assert!(wrong.parse::<Halt>().is_err(), "{wrong:?}");
        }
    }
}
