//! What `run` and `jobs` say of themselves beside their output: metrics and logs.

use crate::logs::Format;

#[cfg(feature = "metrics")]
use super::exit::{self, CliError};
#[cfg(feature = "metrics")]
use std::net::{SocketAddr, TcpListener};

/// What is to be said, and where.
#[derive(clap::Args)]
#[command(next_help_heading = "Metrics and logs")]
pub(crate) struct ObservingArgs {
    /// Serve metrics to Prometheus at http://IP:PORT/metrics, on a loopback address such as 127.0.0.1:9100
    #[cfg(feature = "metrics")]
    #[arg(long, value_name = "IP:PORT", value_parser = loopback)]
    pub(crate) metrics: Option<SocketAddr>,
    /// What lines on standard error are: text, or a JSON object each, with what 'run' says of itself among them [default: text]
    #[arg(long, value_name = "text|json", value_parser = str::parse::<Format>)]
    pub(crate) log_format: Option<Format>,
    /// Send a span for each job, or workflow and activity task, to an OpenTelemetry collector, by OTLP over HTTP: http://127.0.0.1:4318
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", value_parser = collector)]
    pub(crate) otlp: Option<String>,
}

#[cfg(feature = "jobs")]
impl ObservingArgs {
    /// Is there a collector for spans?
    pub(super) fn sends_spans(&self) -> bool {
        #[cfg(feature = "otlp")]
        let is_wanted = self.otlp.is_some();
        #[cfg(not(feature = "otlp"))]
        let is_wanted = false;
        is_wanted
    }
}

/// The address of a collector.
#[cfg(feature = "otlp")]
pub(super) fn collector(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").filter(|host| !host.is_empty() && !host.starts_with(['/', ':']));
    match host {
        Some(_) if !text.contains(|c: char| c.is_whitespace() || c.is_control()) => Ok(text.to_owned()),
        _ => Err("it must be http:// and a host, such as http://127.0.0.1:4318; a collector that wants TLS or a password is reached by one \
                  on this machine that wants neither"
            .to_owned()),
    }
}

/// Starts what sends spans, if that is wanted. After the pool, whose fork a thread would keep from.
#[cfg(feature = "otlp")]
pub(super) fn tracer(
    args: &ObservingArgs,
) -> Result<Option<std::sync::Arc<crate::traces::Tracer>>, super::exit::CliError> {
    let Some(url) = &args.otlp else { return Ok(None) };
    let tracer = crate::traces::Tracer::start(url).map_err(|e| {
        super::exit::CliError::new(super::exit::FAILURE, format_args!("cannot send spans to {url} (--otlp): {e}"))
    })?;
    Ok(Some(std::sync::Arc::new(tracer)))
}

/// An address at which only this machine asks: the names of tasks are nobody else's business.
#[cfg(feature = "metrics")]
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = text.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>();
    let address = address.map_err(|_| "it must be an IP address and a port, such as 127.0.0.1:9100".to_owned())?;
    match address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => {
            Err("it must be a loopback address, such as 127.0.0.1:9100: what asks from another machine goes through a \
                      proxy on this one, which knows who may ask"
                .to_owned())
        }
    }
}

/// Where metrics are asked for.
#[cfg(feature = "metrics")]
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).map_err(|e| {
        let remedy = match e.kind() {
            std::io::ErrorKind::AddrInUse => ": give another port, or 0 for any that is free",
            _ => "",
        };
        CliError::new(exit::FAILURE, format_args!("cannot serve metrics at {address} (--metrics): {e}{remedy}"))
    })
}

/// Where that is, as it is typed into a browser.
#[cfg(feature = "metrics")]
pub(super) fn url(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|e| e.to_string(), |address| format!("http://{address}/metrics"))
}

/// Serves the metrics of a pool by a thread that ends with the process.
#[cfg(all(feature = "jobs", feature = "metrics"))]
pub(super) fn serve(listener: TcpListener, pool: &crate::Pool) -> Result<(), CliError> {
    use crate::observe::{metrics::Exporter, sample::Sample, serve};
    use std::sync::Arc;
    let failure = |e: &dyn std::fmt::Display| CliError::new(exit::FAILURE, format_args!("cannot serve metrics: {e}"));
    let segment = Arc::new(pool.segment_to_read().map_err(|e| failure(&e))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failure(&e))?;
    let exporter = Arc::new(Exporter::default());
    let text = move || std::future::ready(exporter.text(&Sample::at(&segment, None, true)));
    let serve = move || runtime.block_on(serve::serve(listener, text)).map(|never| match never {});
    std::thread::Builder::new().name("metrics".into()).spawn(serve).map(drop).map_err(|e| failure(&e))
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_for_this_machine() {
        for (text, address) in [
            ("127.0.0.1:9100", "127.0.0.1:9100"),
            ("localhost:9100", "127.0.0.1:9100"),
            ("[::1]:0", "[::1]:0"),
            ("127.1.2.3:1", "127.1.2.3:1"),
        ] {
            assert_eq!(loopback(text), Ok(address.parse().unwrap()));
        }
        for wrong in ["", ":9100", "9100", "127.0.0.1", "127.0.0.1:65536", "host:9100", "http://127.0.0.1:9100"] {
            assert!(loopback(wrong).unwrap_err().starts_with("it must be an IP address and a port"), "{wrong}");
        }
        for wrong in ["0.0.0.0:9100", "[::]:9100", "192.0.2.1:9100"] {
            assert!(loopback(wrong).unwrap_err().starts_with("it must be a loopback address"), "{wrong}");
        }
    }
}
