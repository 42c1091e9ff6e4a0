//! What a URL says of a source beside where its server is.

use super::SourceError;
use std::{str::FromStr, time::Duration};
use url::form_urlencoded;

/// The parameters of a URL that are ours; the others are the server's.
pub(super) struct Parameters {
    own: Vec<(String, String)>,
}

impl Parameters {
    /// Takes ours out of a URL, by name.
    pub(super) fn split(url: &str, names: &[&str]) -> Result<(String, Parameters), SourceError> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        // A plus is a plus here, not a space as in a form.
        let query = query.replace('+', "%2B");
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        let (own, others): (Vec<_>, Vec<_>) = pairs.partition(|(name, _)| names.contains(&name.as_str()));
        for (at, (name, _)) in own.iter().enumerate() {
            if own[..at].iter().any(|(other, _)| other == name) {
                return Err(SourceError::Fatal(format!("the source's URL says '{name}' more than once")));
            }
        }
        let mut rest = place.to_owned();
        if !others.is_empty() {
            let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish();
            rest = format!("{rest}?{}", query.replace('+', "%20"));
        }
        Ok((rest, Parameters { own }))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.own.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn number<T: FromStr + PartialOrd + From<u8>>(&self, name: &str) -> Result<Option<T>, SourceError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if number >= T::from(1) => Ok(Some(number)),
            _ => Err(wrong(name, text, "a whole number from 1")),
        }
    }

    pub(super) fn switch(&self, name: &str) -> Result<bool, SourceError> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(wrong(name, other, "'true' or 'false'")),
        }
    }

    /// How long a lease lasts.
    pub(super) fn lease(&self) -> Result<Duration, SourceError> {
        self.time("lease", Duration::from_secs(30))
    }

    pub(super) fn time(&self, name: &str, default: Duration) -> Result<Duration, SourceError> {
        const LEAST: Duration = Duration::from_millis(100);
        // A server counts it in milliseconds, and adds it to a date.
        const MOST: Duration = Duration::from_secs(366 * 24 * 3600);
        let Some(text) = self.text(name) else { return Ok(default) };
        match humantime_serde::re::humantime::parse_duration(text) {
            Ok(time) if (LEAST..=MOST).contains(&time) => Ok(time),
            _ => Err(wrong(name, text, "a time from 100ms to a year, as in '30s' or '5m'")),
        }
    }

    /// How often a job may be handed out.
    pub(super) fn deliveries(&self) -> Result<u32, SourceError> {
        match self.number::<u32>("deliveries")? {
            None => Ok(5),
            Some(most) if most <= i32::MAX.unsigned_abs() => Ok(most),
            Some(most) => Err(wrong("deliveries", &most.to_string(), "a number up to 2147483647")),
        }
    }
}

pub(super) fn wrong(name: &str, value: &str, wanted: &str) -> SourceError {
    SourceError::Fatal(format!("the source's URL says {name}='{value}', which must be {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_taken_out_and_the_servers_stay() {
        let url = "postgres://me@db/x?table=a%20b&application_name=two%20words&lease=2s";
        let (rest, own) = Parameters::split(url, &["table", "lease"]).unwrap();
        assert_eq!(rest, "postgres://me@db/x?application_name=two%20words");
        assert_eq!(own.text("table"), Some("a b"));
        assert_eq!(own.lease().unwrap(), Duration::from_secs(2));
        assert_eq!(own.deliveries().unwrap(), 5);
        let (rest, _) = Parameters::split("redis://db/1?stream=s", &["stream"]).unwrap();
        assert_eq!(rest, "redis://db/1");
    }

    #[test]
    fn what_cannot_be_is_named_with_what_could() {
        for query in
            ["lease=0s", "lease=soon", "deliveries=0", "deliveries=-1", "lease=1s&lease=2s", "deliveries=4294967295"]
        {
            let own = Parameters::split(&format!("redis://db?{query}"), &["lease", "deliveries"]);
            let error = own.and_then(|(_, own)| own.lease().and_then(|_| own.deliveries()).map(drop)).unwrap_err();
            let name = query.split_once('=').unwrap().0;
            assert!(matches!(&error, SourceError::Fatal(why) if why.contains(name)), "{query}: {error}");
        }
    }
}
