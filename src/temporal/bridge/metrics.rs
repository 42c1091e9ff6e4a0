//! Metrics at one address: those of the pool, and Core's.
//!
//! Core's exporter is a server of its own, at a port of the loopback that the kernel chooses; ours asks it and hands on what it says.

use super::Config;
use crate::{
    observe::{metrics::Exporter, sample::Sample, serve},
    process::coordinator::Seat,
};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, header::HOST};
use hyper_util::rt::TokioIo;
use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};
use temporalio_common::telemetry::{PrometheusExporterOptions, start_prometheus_metric_exporter};
use temporalio_sdk_core::CoreRuntime;
use tokio::{net::TcpStream, time::timeout};

/// How long Core's exporter may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves them, if they are wanted. Before Core has a worker: what has begun without a meter gets none.
///
/// # Errors
/// Core's exporter could not be started.
pub(super) fn serve(mut runtime: CoreRuntime, seat: &Seat, config: &Config) -> Result<CoreRuntime, Box<dyn Error>> {
    let Some(listener) = &config.metrics else { return Ok(runtime) };
    let listener = listener.try_clone()?;
    let options = PrometheusExporterOptions::builder()
        .socket_addr(SocketAddr::from(([127, 0, 0, 1], 0)))
        .counters_total_suffix(true)
        .unit_suffix(true)
        .use_seconds_for_durations(true)
        .build();
    let core = {
        let _within = runtime.tokio_handle().enter();
        start_prometheus_metric_exporter(options)?
    };
    runtime.telemetry_mut().attach_late_init_metrics(core.meter);
    let endpoint = seat.endpoint;
    let exporter = Arc::new(Exporter::keeping(&endpoint.segment().header().control.told_rate));
    let text = move || {
        let exporter = exporter.clone();
        async move {
            // It reads files.
            let of_pool = move || exporter.text(&Sample::at(endpoint.segment(), None, true));
            let mut text = tokio::task::spawn_blocking(of_pool).await.unwrap_or_default();
            match timeout(PATIENCE, fetch(core.bound_addr)).await {
                Ok(Ok(of_core)) => text.push_str(&of_core),
                Ok(Err(e)) => tracing::warn!("Core's metrics are left out: {e}"),
                Err(_) => tracing::warn!("Core's metrics are left out: they took longer than {PATIENCE:?}"),
            }
            text
        }
    };
    runtime.tokio_handle().spawn(async move {
        let Err(e) = serve::serve(listener, text).await;
        tracing::error!("metrics are not served: {e}");
    });
    Ok(runtime)
}

/// What Core's exporter says.
async fn fetch(address: SocketAddr) -> Result<String, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/metrics").header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let response = async move { sender.send_request(request).await?.into_body().collect().await };
    // It ends once the other end has what it waits for, and `sender` is gone.
    let (body, _) = tokio::join!(response, connection);
    Ok(String::from_utf8(body?.to_bytes().into())?)
}
