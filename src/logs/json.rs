//! How logs are set up, and what a line of JSON has.

use super::IS_JSON;
use crate::process::coordinator::label;
use serde_json::{Map, Value};
use std::{fmt, io, sync::atomic::Ordering::Relaxed};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_log::{AsLog, LogTracer, NormalizeEvent};
use tracing_subscriber::{
    filter::{EnvFilter, LevelFilter},
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// What a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Format, &'static str> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("it must be 'text' or 'json'"),
        }
    }
}

/// How much text an event has: the line of a worker is to reach the coordinator whole (`process::output`), also if each letter is escaped.
const LONGEST: usize = 128 << 10;

/// Of what a command says in any case; `RUST_LOG` says what else there is.
const REPORT: &str = "shmworker::report=info";

/// Logs to standard error, in this process and those it forks: warnings, more or less by `RUST_LOG`. A program that has set its own
/// logs up before keeps them.
pub(crate) fn start(format: Format) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let logs = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false);
    match format {
        Format::Text => drop(logs.with_env_filter(filter).try_init()),
        Format::Json => {
            let report = REPORT.parse().unwrap_or_else(|e| unreachable!("{REPORT}: {e}"));
            let logs = logs.with_env_filter(filter.add_directive(report));
            let logs = logs.fmt_fields(JsonFields::new()).event_format(Json).finish();
            // In a program with logs of its own it would be for those to show what goes wrong. `try_init` does not tell that
            // from a logger of `log`'s, which takes nothing away.
            if tracing::subscriber::set_global_default(logs).is_ok() {
                IS_JSON.store(true, Relaxed);
                let _ = LogTracer::builder().with_max_level(LevelFilter::current().as_log()).init();
            }
        }
    }
}

/// A line of JSON for each event.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Map::new();
        let label = label();
        if !label.is_empty() {
            fields.insert("worker".to_owned(), label.into());
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let of_span = extensions.get::<FormattedFields<N>>();
            if let Some(Ok(of_span)) = of_span.map(|of_span| serde_json::from_str::<Map<String, Value>>(of_span)) {
                fields.extend(of_span);
            }
        }
        let mut visitor = Fields { fields: &mut fields, is_log: event.is_log(), left: LONGEST };
        event.record(&mut visitor);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        // A record of the crate `log` has its target in a field.
        let of_log = event.normalized_metadata();
        let metadata = of_log.as_ref().unwrap_or_else(|| event.metadata());
        let level: &Level = metadata.level();
        for (name, value) in [("timestamp", &timestamp[..]), ("level", level.as_str()), ("target", metadata.target())] {
            fields.insert(name.to_owned(), value.into());
        }
        writeln!(writer, "{}", Value::Object(fields))
    }
}

struct Fields<'f> {
    fields: &'f mut Map<String, Value>,
    /// Of a record of the crate `log`, whose `log.*` fields are metadata.
    is_log: bool,
    /// Bytes of text that there may still be.
    left: usize,
}

impl Fields<'_> {
    fn set_text(&mut self, field: &Field, text: &str) {
        let kept = &text[..text.floor_char_boundary(self.left)];
        self.left -= kept.len();
        self.set(field, kept);
        if kept.len() < text.len() {
            self.fields.insert("cut".to_owned(), true.into());
        }
    }

    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        if !(self.is_log && field.name().starts_with("log.")) {
            self.fields.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_log::log::{Level, Record};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_of_bounded_length_and_has_its_level() {
        let kept = Kept::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt().fmt_fields(JsonFields::new()).event_format(Json);
        let logs = logs.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(logs, || tracing::warn!(next = "ü", "{}", "ü\u{1}".repeat(LONGEST)));
        let line = kept.0.lock().unwrap().clone();
        assert!(line.len() < 1 << 20, "{}", line.len());
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&line["level"], &line["cut"]), (&"WARN".into(), &true.into()));
        assert!(line["message"].as_str().unwrap().len() >= LONGEST - 4);
    }

    #[test]
    fn a_record_of_log_has_its_own_target() {
        let kept = Kept::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt().fmt_fields(JsonFields::new()).event_format(Json);
        let logs = logs.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(logs, || {
            let mut record = Record::builder();
            record.level(Level::Warn).target("a::library").file(Some("its.rs")).line(Some(7));
            tracing_log::format_trace(&record.args(format_args!("said")).build()).unwrap();
        });
        let mut line: Value = serde_json::from_slice(&kept.0.lock().unwrap()).unwrap();
        assert!(line["timestamp"].take().is_string(), "{line}");
        let wanted = serde_json::json!({"timestamp": null, "level": "WARN", "target": "a::library", "message": "said"});
        assert_eq!(line, wanted);
    }
}
