//! Values to payloads and back, and how an attempt's end is reported.

use super::{
    ActivityCancelReason, ActivityContext, ActivityError, ApplicationFailure, Payload, TemporalDeserializable,
    TemporalSerializable, registry::Outcome,
};
use crate::temporal::converter::{Codec, Converter, in_activity};
use std::{any::Any, fmt};
use temporalio_common::{
    data_converters::{GenericPayloadConverter, PayloadConverter, SerializationContext},
    error::{FailurePayloads, OutgoingActivityError, OutgoingError},
    protos::{
        ENCODING_PAYLOAD_KEY, coresdk::activity_result::ActivityExecutionResult, temporal::api::failure::v1::Failure,
    },
};

fn with<R>(converter: &Converter, convert: impl FnOnce(&PayloadConverter, &SerializationContext<'_>) -> R) -> R {
    let converter = converter.data().payload_converter();
    convert(converter, &SerializationContext::new(&in_activity(), converter))
}

/// One payload: a result.
pub(super) fn encode<T: TemporalSerializable + 'static>(
    value: &T,
    converter: &Converter,
) -> Result<Payload, ActivityError> {
    Ok(with(converter, |converter, context| converter.to_payload(context, value))?)
}

/// As many payloads as the type wants: heartbeat details.
pub(super) fn encode_all<T: TemporalSerializable + 'static>(
    value: &T,
    converter: &Converter,
) -> Result<Vec<Payload>, ActivityError> {
    Ok(with(converter, |converter, context| converter.to_payloads(context, value))?)
}

/// `what` names the payloads in the error, which stays retryable: the next attempt may meet a newer worker.
pub(super) fn decode<T: TemporalDeserializable + 'static>(
    payloads: Vec<Payload>,
    converter: &Converter,
    what: fmt::Arguments<'_>,
) -> Result<T, ActivityError> {
    // Upstream's error is "Wrong encoding" for whatever doesn't fit, so what was there is said here.
    let found = payloads.iter().map(encoding).collect::<Vec<_>>().join(", ");
    with(converter, |converter, context| converter.from_payloads(context, payloads)).map_err(|error| {
        let message = format!("cannot decode {what} as {} from [{found}]: {error}", std::any::type_name::<T>());
        ApplicationFailure::new(anyhow::Error::new(error).context(message)).into()
    })
}

fn encoding(payload: &Payload) -> String {
    String::from_utf8_lossy(payload.metadata.get(ENCODING_PAYLOAD_KEY).map_or(b"", Vec::as_slice)).into_owned()
}

/// What the server is told of an attempt that ended with `outcome`.
///
/// The server accepts "cancelled" only if it asked for a cancellation. Core drops its refusal, and the attempt would hang
/// until a timeout. So an attempt that ends as cancelled for another reason is reported as failed, with the type names
/// that the SDKs use, and Temporal retries it.
pub(super) fn execution_result(outcome: Outcome, context: &ActivityContext) -> ActivityExecutionResult {
    let converter = context.converter();
    match outcome {
        Ok(result) => ActivityExecutionResult::ok(result),
        Err(ActivityError::WillCompleteAsync) => ActivityExecutionResult::will_complete_async(),
        Err(ActivityError::Application(failure)) => fail(*failure, converter),
        Err(ActivityError::Cancelled { details }) => {
            cancelled(context.cancel_reason(), context.info().is_local, details, converter)
        }
        Err(other) => {
            fail(ApplicationFailure::new(anyhow::anyhow!("unsupported activity error: {other:?}")), converter)
        }
    }
}

/// Takes the result of an attempt through the codec. If that fails so does the attempt, retryable.
pub(super) async fn encode_result(result: ActivityExecutionResult, codec: &Codec) -> ActivityExecutionResult {
    codec.encode_of_activity(result).await.unwrap_or_else(|error| {
        let message = format!("the payload codec cannot encode the result: {error}");
        ActivityExecutionResult::fail(Failure::application_failure(message, false))
    })
}

/// The result of an attempt that ended as cancelled, given who had asked for that.
pub(crate) fn cancelled(
    reason: Option<ActivityCancelReason>,
    is_local: bool,
    details: Option<FailurePayloads>,
    converter: &Converter,
) -> ActivityExecutionResult {
    let fail = |failure| fail(failure, converter);
    use ActivityCancelReason::{Cancelled, NotFound, Paused, Reset, TimedOut, WorkerShutdown};
    match reason {
        Some(Paused) => fail(typed("ActivityPause", "activity paused")),
        Some(Reset) => fail(typed("ActivityReset", "activity reset")),
        Some(WorkerShutdown) => fail(typed("WorkerShutdown", "the worker is shutting down")),
        None if !is_local => {
            fail(typed("CancelledError", "the activity ended as cancelled, which nobody had asked for"))
        }
        None | Some(Cancelled | NotFound | TimedOut) => ActivityExecutionResult::cancel(
            converter
                .data()
                .to_failure(&in_activity(), OutgoingError::Activity(OutgoingActivityError::Cancelled { details })),
        ),
    }
}

pub(super) fn fail(failure: ApplicationFailure, converter: &Converter) -> ActivityExecutionResult {
    let failure = OutgoingError::Activity(OutgoingActivityError::Application(Box::new(failure)));
    ActivityExecutionResult::fail(converter.data().to_failure(&in_activity(), failure))
}

/// A retryable failure whose type name clients and retry policies can go by.
pub(super) fn typed(type_name: &str, message: impl Into<String>) -> ApplicationFailure {
    ApplicationFailure::builder(message.into()).type_name(type_name.to_owned()).build()
}

/// A retryable failure for a handler that panicked.
pub(super) fn panicked(payload: Box<dyn Any + Send>) -> ApplicationFailure {
    let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    ApplicationFailure::new(format!("activity panicked: {}", message.unwrap_or("(the panic carried no text)")))
}
