//! Traces: the library's spans, batched by OpenTelemetry's SDK and sent over OTLP/HTTP to the collector of `[trace]`.
//!
//! A collector that is down, slow or hangs costs spans and a line of the log, and nothing else: what waits for it is
//! bounded in number, each export in time, and the end of the process waits [`FINISH_WITHIN`] at the most.

mod client;
mod export;
mod headers;
mod sample;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use forebay::config;
use hyper::Uri;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::route::{Route, Trust};
pub use headers::warn_of_unreadable;

use client::Client;
use export::{Bounded, Reported, State};
use sample::OneIn;

/// One export, from connecting to the last byte of the answer.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// How long the end of the process may wait for the last spans to be taken.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Spans of one export.
const MAX_EXPORT_SPANS: usize = 512;

/// What collects spans and sends them.
pub struct Traces {
    provider: SdkTracerProvider,
    state: Arc<State>,
    one_in: u64,
}

impl Traces {
    /// Whatever the settings want; exports run on `runtime`. `None` where they name no collector.
    ///
    /// # Errors
    /// What of the settings cannot be used.
    pub fn start(
        trace: &config::Trace,
        node_id: u16,
        runtime: &tokio::runtime::Handle,
    ) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &trace.otlp_endpoint else { return Ok(None) };
        let url = format!("{endpoint}/v1/traces");
        let uri: Uri = url.parse().context("trace.otlp_endpoint cannot be used")?;
        let trust = Trust { ca: trace.otlp_ca.as_deref(), ca_name: "trace.otlp_ca", token: false, insecure: false };
        let state = Arc::new(State::new(endpoint.clone(), trace.max_queued_spans));
        let client = Client::new(Route::new(&uri, trust)?, runtime.clone(), Arc::clone(&state));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(EXPORT_WITHIN)
            .build()
            .context("the exporter of traces cannot be made")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(trace.max_queued_spans)
            .with_max_export_batch_size(MAX_EXPORT_SPANS.min(trace.max_queued_spans))
            .build();
        let processor = BatchSpanProcessor::new(Reported::new(exporter, Arc::clone(&state)), batches);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(node_id))
            .with_sampler(Sampler::AlwaysOn)
            .with_span_processor(Bounded::new(processor, Arc::clone(&state)))
            .build();
        Ok(Some(Self { provider, state, one_in: trace.sample_one_in }))
    }

    /// Takes the spans of the library, and nothing else: what log lines say may have ids of clients in it.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("forebay"))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_filter(OneIn::new(self.one_in))
    }

    /// Sends what waits, within [`FINISH_WITHIN`]; after that nothing is traced.
    pub fn finish(self) {
        if self.provider.shutdown_with_timeout(FINISH_WITHIN).is_err() {
            self.state.failed(&format!("it did not take the last spans within {FINISH_WITHIN:?}"));
        }
    }
}

/// Who the spans are of; `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` come before what is known here.
fn resource(node_id: u16) -> Resource {
    let own = [
        KeyValue::new("service.name", "forebay"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node_id.to_string()),
    ];
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    Resource::builder_empty()
        .with_attributes(own)
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
        .with_attributes(name.map(|name| KeyValue::new("service.name", name)))
        .build()
}
