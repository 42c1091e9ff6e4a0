//! The data converter, in the processes that run the user's code: the bridge never sees what a payload holds.
//!
//! Values and failures are converted where the code runs. The codec is laid over whole messages, as in the other SDKs: over
//! what arrives before the code sees it, and over what leaves after the code has made it.
//!
//! A codec is asynchronous, since it may have to ask a key server, and a workflow process has no runtime. So its future is
//! first polled in place, which is all that ciphers and compressors need. One that has to wait is taken over by a thread,
//! which a process starts at the first use of a codec.

use crate::panics;
use std::{
    sync::{LazyLock, mpsc},
    task::{Context, Poll, Waker},
};
use temporalio_common::{
    data_converters::{
        ActivitySerializationContext, DataConverter, PayloadConversionError, SerializationContextData,
        WorkflowSerializationContext,
    },
    error::{ApplicationFailure, OutgoingError, OutgoingWorkflowError},
    payload_visitor::{PayloadVisitable, decode_payloads, encode_payloads},
    protos::{
        coresdk::{workflow_activation::WorkflowActivation, workflow_completion::WorkflowActivationCompletion},
        temporal::api::{enums::v1::WorkflowTaskFailedCause, failure::v1::Failure},
    },
};
use tokio::runtime::{Builder, Runtime};

/// Where futures of codecs wait. A static: a runtime must not be dropped inside another one.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("codec").enable_all().build();
    runtime.expect("a process may have a second thread")
});

/// How values become payloads, and what payloads pass on their way out and in.
#[derive(Clone, Default)]
pub(crate) struct Converter {
    converter: DataConverter,
    /// Only a converter of the user's own has a codec that is worth going through every message for.
    is_own: bool,
}

impl From<DataConverter> for Converter {
    fn from(converter: DataConverter) -> Self {
        Self { converter, is_own: true }
    }
}

impl Converter {
    pub(super) fn data(&self) -> &DataConverter {
        &self.converter
    }

    pub(crate) fn into_data(self) -> DataConverter {
        self.converter
    }

    /// The codec, unless there is nothing that it would do.
    pub(super) fn codec(&self) -> Option<Codec> {
        self.is_own.then(|| Codec { converter: self.converter.clone() })
    }
}

/// Takes messages through the user's codec.
#[derive(Clone)]
pub(super) struct Codec {
    converter: DataConverter,
}

pub(super) fn in_activity() -> SerializationContextData {
    SerializationContextData::Activity(ActivitySerializationContext::new())
}

pub(super) fn in_workflow() -> SerializationContextData {
    SerializationContextData::Workflow(WorkflowSerializationContext::new())
}

/// Hides the message of a failure that this crate has made, if the user's failure converter hides those that it makes: it is in
/// the attributes then, which the codec encodes.
pub(super) fn conceal(failure: &mut Failure, converter: &DataConverter) {
    if failure.encoded_attributes.is_some() {
        return;
    }
    let told = ApplicationFailure::new(anyhow::Error::msg(failure.message.clone()));
    let told = OutgoingError::Workflow(OutgoingWorkflowError::Application(Box::new(told)));
    let hidden = converter.to_failure(&in_workflow(), told);
    if hidden.encoded_attributes.is_some() {
        (failure.message, failure.encoded_attributes) = (hidden.message, hidden.encoded_attributes);
        failure.stack_trace.clear();
    }
}

impl Codec {
    async fn decode<M: PayloadVisitable>(
        self,
        mut message: M,
        context: SerializationContextData,
    ) -> Result<M, PayloadConversionError> {
        decode_payloads(&mut message, self.converter.codec(), &context).await.map(|()| message)
    }

    async fn encode<M: PayloadVisitable>(
        self,
        mut message: M,
        context: SerializationContextData,
    ) -> Result<M, PayloadConversionError> {
        encode_payloads(&mut message, self.converter.codec(), &context).await.map(|()| message)
    }

    /// What an activity is given.
    pub(super) async fn decode_for_activity<M: PayloadVisitable>(
        &self,
        message: M,
    ) -> Result<M, PayloadConversionError> {
        self.clone().decode(message, in_activity()).await
    }

    /// What an activity ends with.
    pub(super) async fn encode_of_activity<M: PayloadVisitable>(
        &self,
        message: M,
    ) -> Result<M, PayloadConversionError> {
        self.clone().encode(message, in_activity()).await
    }

    /// What an activity says while it runs, from whatever thread.
    pub(super) fn encode_now<M: PayloadVisitable + 'static>(&self, message: M) -> Result<M, PayloadConversionError> {
        wait(self.clone().encode(message, in_activity()))
    }

    /// Decodes an activation, has it applied, and encodes the completion. A codec that fails or panics fails the workflow
    /// task, which Temporal tries again: a key may be missing only for now.
    pub(super) fn around(
        &self,
        activation: WorkflowActivation,
        apply: impl FnOnce(WorkflowActivation) -> WorkflowActivationCompletion,
    ) -> WorkflowActivationCompletion {
        let run_id = activation.run_id.clone();
        let coded = wait(self.clone().decode(activation, in_workflow()))
            .map_err(|error| format!("the payload codec cannot decode the activation: {error}"))
            .and_then(|activation| {
                wait(self.clone().encode(apply(activation), in_workflow()))
                    .map_err(|error| format!("the payload codec cannot encode the completion: {error}"))
            });
        coded.unwrap_or_else(|message| {
            tracing::warn!(run_id, "{message}");
            let failure = Failure { message, ..Default::default() };
            let cause = WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure;
            WorkflowActivationCompletion::fail(run_id, failure, Some(cause))
        })
    }
}

/// Runs the future of a codec to its end. The calling thread waits, be it one of an async runtime: no runtime is entered for it.
fn wait<T: Send + 'static>(
    future: impl Future<Output = Result<T, PayloadConversionError>> + Send + 'static,
) -> Result<T, PayloadConversionError> {
    let mut future = Box::pin(future);
    let first = panics::catch(|| {
        // What waits for time or a socket finds the runtime to which that belongs.
        let _entered = RUNTIME.enter();
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    });
    match first {
        Ok(Poll::Ready(result)) => result,
        Ok(Poll::Pending) => {
            let (done, result) = mpsc::channel();
            RUNTIME.spawn(async move {
                let _ = done.send(future.await);
            });
            result.recv().unwrap_or_else(|_| Err(panicked("its message is on stderr")))
        }
        Err(panic) => Err(panicked(&panic.to_string())),
    }
}

fn panicked(how: &str) -> PayloadConversionError {
    PayloadConversionError::EncodingError(format!("it panicked: {how}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{BoxFuture, FutureExt};
    use std::time::Duration;
    use temporalio_common::{
        data_converters::{DefaultFailureConverter, PayloadCodec, PayloadConverter},
        protos::{
            coresdk::{
                workflow_activation::{SignalWorkflow, WorkflowActivationJob, workflow_activation_job::Variant},
                workflow_commands::{CompleteWorkflowExecution, workflow_command},
                workflow_completion::{Success, workflow_activation_completion::Status},
            },
            temporal::api::common::v1::Payload,
        },
    };

    type Coded = BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>>;

    /// Adds a letter on the way out and takes it off on the way in.
    #[derive(Clone, Copy)]
    enum Letter {
        AtOnce,
        Later,
        Failing,
        Panicking,
        PanickingLater,
    }

    impl Letter {
        fn code(self, mut payloads: Vec<Payload>, code: fn(&mut Vec<u8>)) -> Coded {
            let mut coded = move || {
                payloads.iter_mut().for_each(|payload| code(&mut payload.data));
                Ok(std::mem::take(&mut payloads))
            };
            async move {
                match self {
                    Letter::AtOnce => {}
                    Letter::Later | Letter::PanickingLater => tokio::time::sleep(Duration::from_millis(1)).await,
                    Letter::Failing => return Err(PayloadConversionError::EncodingError("no key".into())),
                    Letter::Panicking => panic!("no key at all"),
                }
                assert!(!matches!(self, Letter::PanickingLater), "no key after all");
                coded()
            }
            .boxed()
        }
    }

    impl PayloadCodec for Letter {
        fn encode(&self, _: &SerializationContextData, payloads: Vec<Payload>) -> Coded {
            self.code(payloads, |data| data.push(b'x'))
        }

        fn decode(&self, _: &SerializationContextData, payloads: Vec<Payload>) -> Coded {
            self.code(payloads, |data| assert_eq!(data.pop(), Some(b'x')))
        }
    }

    fn payload(data: &str) -> Payload {
        Payload { data: data.into(), ..Default::default() }
    }

    /// A signal whose input is to be the workflow's result.
    fn activation() -> WorkflowActivation {
        let signal = SignalWorkflow { input: vec![payload("ax")], ..Default::default() };
        let job = WorkflowActivationJob { variant: Some(Variant::SignalWorkflow(signal)) };
        WorkflowActivation { run_id: "run".into(), jobs: vec![job], ..Default::default() }
    }

    fn complete(activation: WorkflowActivation) -> WorkflowActivationCompletion {
        let Some(Variant::SignalWorkflow(signal)) = &activation.jobs[0].variant else { panic!("{activation:?}") };
        assert_eq!(signal.input[0].data, b"a", "workflow code sees what was decoded");
        let end = CompleteWorkflowExecution { result: Some(payload("b")) };
        let commands = vec![workflow_command::Variant::CompleteWorkflowExecution(end).into()];
        let status = Some(Status::Successful(Success { commands, ..Default::default() }));
        WorkflowActivationCompletion { run_id: activation.run_id, status, ..Default::default() }
    }

    fn around(letter: Letter) -> Result<Vec<u8>, String> {
        let data = DataConverter::new(PayloadConverter::default(), DefaultFailureConverter::default(), letter);
        let codec = Converter::from(data).codec().expect("a codec of one's own");
        let completion = codec.around(activation(), complete);
        assert_eq!(completion.run_id, "run");
        match completion.status.unwrap() {
            Status::Successful(success) => match success.commands[0].variant.clone() {
                Some(workflow_command::Variant::CompleteWorkflowExecution(end)) => Ok(end.result.unwrap().data),
                other => panic!("{other:?}"),
            },
            Status::Failed(failed) => Err(failed.failure.unwrap().message),
        }
    }

    #[test]
    fn a_codec_lies_around_an_activation_whether_it_waits_or_not() {
        assert_eq!(around(Letter::AtOnce).unwrap(), b"bx");
        assert_eq!(around(Letter::Later).unwrap(), b"bx");
    }

    #[test]
    fn a_codec_may_wait_inside_another_runtime() {
        let runtime = Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(async { around(Letter::Later) }).unwrap(), b"bx");
    }

    #[test]
    fn a_codec_that_fails_fails_the_task() {
        for (letter, why) in [
            (Letter::Failing, "no key"),
            (Letter::Panicking, "no key at all"),
            (Letter::PanickingLater, "its message is on stderr"),
        ] {
            let message = around(letter).unwrap_err();
            assert!(message.starts_with("the payload codec cannot decode the activation: "), "{message}");
            assert!(message.ends_with(why), "{message}");
        }
    }

    #[test]
    fn without_a_converter_of_ones_own_no_message_is_gone_through() {
        assert!(Converter::default().codec().is_none());
    }
}
