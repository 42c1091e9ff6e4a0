//! The header in which the SDKs' interceptors for OpenTelemetry hand a trace on: a JSON object with W3C's `traceparent`, and perhaps
//! `tracestate` and `baggage`.

use crate::lockfree::descriptor::TraceParent;
use serde_json::{Map, Value};
use std::collections::HashMap;
use temporalio_common::protos::{ENCODING_PAYLOAD_KEY, temporal::api::common::v1::Payload};

/// The same in all SDKs.
const HEADER: &str = "_tracer-data";
const ENCODING: &[u8] = b"json/plain";
const TRACEPARENT: &str = "traceparent";

pub(super) type Headers = HashMap<String, Payload>;

/// What the header says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Carrier(Map<String, Value>);

impl Carrier {
    /// `None`: there is none, or none that can be read here; a payload codec may have made it.
    pub(super) fn of(headers: &Headers) -> Option<Carrier> {
        let payload = headers.get(HEADER)?;
        let is_plain = payload.metadata.get(ENCODING_PAYLOAD_KEY).is_some_and(|encoding| encoding == ENCODING);
        is_plain.then(|| serde_json::from_slice(&payload.data).ok()).flatten().map(Carrier)
    }

    /// The span that is named.
    pub(super) fn parent(&self) -> Option<TraceParent> {
        self.0.get(TRACEPARENT)?.as_str()?.parse().ok()
    }

    /// With this span as the parent of what follows.
    pub(super) fn through(mut self, span: TraceParent) -> Carrier {
        self.0.insert(TRACEPARENT.to_owned(), span.to_string().into());
        self
    }

    /// Adds it to headers; what stands there already stays, if it cannot be read, or `replaces` is false.
    pub(super) fn add_to(&self, headers: &mut Headers, replaces: bool) {
        if headers.contains_key(HEADER) && !(replaces && Carrier::of(headers).is_some()) {
            return;
        }
        let metadata = [(ENCODING_PAYLOAD_KEY.to_owned(), ENCODING.to_vec())].into();
        let data = Value::Object(self.0.clone()).to_string().into_bytes();
        headers.insert(HEADER.to_owned(), Payload { metadata, data, ..Default::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: TraceParent = TraceParent { trace: 0x4bf9, span: 0xf067, is_sampled: true };

    fn header(encoding: &str, data: &str) -> Headers {
        let metadata = [(ENCODING_PAYLOAD_KEY.to_owned(), encoding.into())].into();
        [(HEADER.to_owned(), Payload { metadata, data: data.into(), ..Default::default() })].into()
    }

    /// As the SDK for Python has written it.
    const OF_PYTHON: &str =
        r#"{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","baggage":"a=b"}"#;

    #[test]
    fn what_an_sdk_has_written_is_handed_on_with_another_parent() {
        let mut headers = header("json/plain", OF_PYTHON);
        let carrier = Carrier::of(&headers).unwrap();
        assert_eq!(carrier.parent().unwrap().to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        carrier.through(SPAN).add_to(&mut headers, true);
        let carrier = Carrier::of(&headers).unwrap();
        assert_eq!((carrier.parent(), carrier.0["baggage"].as_str()), (Some(SPAN), Some("a=b")));
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let ours = Carrier::default().through(SPAN);
        for (encoding, data) in [("binary/encrypted", OF_PYTHON), ("json/plain", "[]"), ("json/plain", "")] {
            let mut headers = header(encoding, data);
            assert_eq!(Carrier::of(&headers), None);
            ours.add_to(&mut headers, true);
            assert_eq!(headers, header(encoding, data));
        }
        for data in ["{}", r#"{"traceparent":1}"#, r#"{"traceparent":"00"}"#] {
            assert_eq!(Carrier::of(&header("json/plain", data)).unwrap().parent(), None);
        }
    }

    #[test]
    fn what_a_program_has_set_itself_stays() {
        let mut headers = header("json/plain", OF_PYTHON);
        Carrier::default().through(SPAN).add_to(&mut headers, false);
        assert_eq!(headers, header("json/plain", OF_PYTHON));
        let mut headers = Headers::new();
        Carrier::default().through(SPAN).add_to(&mut headers, false);
        assert_eq!(Carrier::of(&headers).unwrap().parent(), Some(SPAN));
    }
}
