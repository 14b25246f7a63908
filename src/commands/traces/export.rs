//! What stands around the SDK's exporter and its queue: the bound of all that waits, and one line of the log when
//! exports begin to fail and one when they work again.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

/// How it goes with the exports.
#[derive(Debug)]
pub struct State {
    /// Where they go; has no credentials in it.
    endpoint: String,
    max_queued: usize,
    /// Spans that have ended and are not exported, those of an export under way among them.
    queued: AtomicUsize,
    /// Spans that no collector will see, since start.
    lost: AtomicU64,
    /// Whether the log has it that spans did not fit, and that exports fail.
    overflowed: AtomicBool,
    failing: AtomicBool,
    /// Why the last request failed.
    error: Mutex<Option<String>>,
}

impl State {
    pub fn new(endpoint: String, max_queued: usize) -> Self {
        Self {
            endpoint,
            max_queued,
            queued: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            overflowed: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    /// Keeps why a request failed for [`Self::exported`].
    pub fn note(&self, error: String) {
        *self.error.lock().expect("nobody panics with the lock") = Some(error);
    }

    /// Whether one more span may wait. Called by the threads that do the work: says nothing to the log itself.
    fn admit(&self) -> bool {
        let admitted = self.queued.fetch_add(1, Ordering::Relaxed) < self.max_queued;
        if !admitted {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// What became of an export of so many spans.
    fn exported(&self, spans: usize, result: &OTelSdkResult) {
        self.queued.fetch_sub(spans, Ordering::Relaxed);
        let noted = self.error.lock().expect("nobody panics with the lock").take();
        match result {
            Ok(()) => {
                let lost = self.lost.load(Ordering::Relaxed);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(endpoint = self.endpoint, lost, "traces are exported again");
                } else if lost > 0 && !self.overflowed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        lost,
                        "spans are dropped, as more end than can be exported; raise trace.sample_one_in or \
                         trace.max_queued_spans"
                    );
                }
            }
            Err(error) => {
                self.lost.fetch_add(spans as u64, Ordering::Relaxed);
                self.failed(&noted.unwrap_or_else(|| error.to_string()));
            }
        }
    }

    /// Says once that exports fail, until they work again.
    pub fn failed(&self, error: &str) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                endpoint = self.endpoint,
                error,
                "traces are not exported, and spans are lost; see to the collector, or unset trace.otlp_endpoint"
            );
        }
    }
}

/// An exporter that says how it goes.
#[derive(Debug)]
pub struct Reported<E> {
    exporter: E,
    state: Arc<State>,
}

impl<E> Reported<E> {
    pub fn new(exporter: E, state: Arc<State>) -> Self {
        Self { exporter, state }
    }
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.state.exported(spans, &result);
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The SDK's queue, with a bound that counts what is on its way as well.
#[derive(Debug)]
pub struct Bounded {
    queue: BatchSpanProcessor,
    state: Arc<State>,
}

impl Bounded {
    pub fn new(queue: BatchSpanProcessor, state: Arc<State>) -> Self {
        Self { queue, state }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.queue.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.state.admit() {
            self.queue.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.queue.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.queue.set_resource(resource);
    }
}
