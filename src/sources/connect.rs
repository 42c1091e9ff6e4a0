//! Sources by their URLs.

use super::{SourceError, TaskSource};
use std::{fmt, path::PathBuf};
use url::Url;

/// The schemes, each with the feature that brings it.
const SCHEMES: [(&str, &str); 8] = [
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("redis", "redis"),
    ("rediss", "redis"),
    ("grpc", "grpc"),
    ("grpcs", "grpc"),
    ("http", "http"),
    ("https", "http"),
];

/// What a source is told beside its URL.
///
/// ```
/// use shmworker::sources::ConnectOptions;
///
/// let options = ConnectOptions::new().header("Authorization: Bearer 4711").ca("/etc/ssl/own-ca.pem");
/// # let _ = options;
/// ```
#[derive(Clone, Default)]
pub struct Options {
    pub(super) headers: Vec<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) worker: Option<String>,
}

/// Headers are secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions").field("ca", &self.ca).field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Options {
    /// Nothing.
    pub fn new() -> Options {
        Options::default()
    }

    /// A header that each request carries, `Name: value`: HTTP and gRPC. May be called several times.
    pub fn header(mut self, header: impl Into<String>) -> Options {
        self.headers.push(header.into());
        self
    }

    /// A file with the certificate authorities of the server, PEM; by default those of the system.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Options {
        self.ca = Some(file.into());
        self
    }

    /// A name under which the source may show who has a job; by default `PID@HOST`.
    pub fn worker(mut self, name: impl Into<String>) -> Options {
        self.worker = Some(name.into());
        self
    }

    /// That name.
    pub(super) fn worker_name(&self) -> String {
        let default = || {
            let host = nix::unistd::gethostname().unwrap_or_default();
            format!("{}@{}", std::process::id(), host.to_string_lossy())
        };
        self.worker.clone().unwrap_or_else(default)
    }
}

/// Why there is no source. Passwords are not shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL, or what was said beside it, makes no sense.
    #[error("{0}")]
    Url(String),
    /// There is a source with this scheme, but this build has it not.
    #[error("this build has no '{scheme}' source: build it with the feature '{feature}', or all with 'sources'")]
    Feature {
        /// The scheme.
        scheme: String,
        /// The Cargo feature.
        feature: &'static str,
    },
    /// The source won't.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// The source at a URL: `postgres://`, `redis://`, `grpc://`, `http://`, each also with TLS. The server need not be up yet.
///
/// # Errors
/// [`ConnectError`].
///
/// ```
/// use shmworker::sources::{ConnectOptions, connect};
///
/// let error = connect("ftp://example.org/jobs", &ConnectOptions::new()).err().unwrap();
/// assert!(error.to_string().starts_with("no source has the scheme 'ftp'"));
/// ```
#[cfg_attr(
    not(any(feature = "grpc", feature = "http", feature = "postgres", feature = "redis")),
    expect(unused_variables, reason = "for sources alone")
)]
pub fn connect(url: &str, options: &Options) -> Result<Box<dyn TaskSource>, ConnectError> {
    let schemes = || SCHEMES.map(|(scheme, _)| format!("{scheme}://")).join(", ");
    // What can't be read can't be shown either: there may be a password in it.
    let url = Url::parse(url).map_err(|e| {
        ConnectError::Url(format!("the URL of the source is none ({e}): it begins with one of {}", schemes()))
    })?;
    let scheme = url.scheme();
    let Some(&(_, feature)) = SCHEMES.iter().find(|(known, _)| *known == scheme) else {
        let why = format!("no source has the scheme '{scheme}': it is one of {}", schemes());
        return Err(ConnectError::Url(why));
    };
    match feature {
        #[cfg(feature = "grpc")]
        "grpc" => super::grpc::open(&url, options),
        #[cfg(feature = "http")]
        "http" => super::http::open(&url, options),
        #[cfg(feature = "postgres")]
        "postgres" => Ok(Box::new(super::Postgres::open(url.as_str(), options)?)),
        #[cfg(feature = "redis")]
        "redis" => Ok(Box::new(super::Redis::open(url.as_str(), options)?)),
        _ => Err(ConnectError::Feature { scheme: scheme.to_owned(), feature }),
    }
}

/// A URL as it may be shown: without password, query and fragment, which may hold secrets.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "(no URL)".to_owned() };
    if url.password().is_some() {
        // It has an authority, as it has a password.
        let _ = url.set_password(Some("***"));
    }
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// What went wrong with a connection, with all its causes. A certificate that is not trusted won't be at the next attempt either.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(super) fn failure(url: &str, error: &dyn std::error::Error) -> SourceError {
    let mut why = format!("{url}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some repeat what they stand for.
        if !why.ends_with(&text) {
            why = format!("{why}: {text}");
        }
        cause = error.source();
    }
    // Of rustls, by whatever it was wrapped.
    if why.contains("invalid peer certificate") { SourceError::Fatal(why) } else { SourceError::Unavailable(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        connect(url, &Options::new()).err().unwrap().to_string()
    }

    #[test]
    fn a_scheme_that_is_unknown_is_told_those_that_are_not() {
        let message = refused("ftp://u:secret@h/x");
        assert!(
            message.contains("'ftp'") && message.contains("postgres://") && !message.contains("secret"),
            "{message}"
        );
        let message = refused("secret @h");
        assert!(message.contains("is none") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("postgres://me:secret@db/jobs?password=secret#secret"), "postgres://me:***@db/jobs");
        assert_eq!(shown("redis://:secret@db/0"), "redis://:***@db/0");
        assert_eq!(shown("secret"), "(no URL)");
    }
}
