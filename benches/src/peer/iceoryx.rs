//! iceoryx2: shared memory between processes, without a copy. Who waits looks again; nobody sleeps.

use crate::{
    Result,
    measure::{End, Link, Side},
    stage::Wait,
};
use iceoryx2::{
    active_request::ActiveRequest,
    pending_response::PendingResponse,
    port::{client::Client, publisher::Publisher, server::Server, subscriber::Subscriber},
    prelude::{Config, FileName, LogLevel, Node, NodeBuilder, Path, SemanticString, ipc, set_log_level},
    service::port_factory::PortFactory,
};
use std::{
    collections::VecDeque,
    fs,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use tempfile::TempDir;

/// Its own sweet spot: with room for more under way each request costs more.
const WINDOW: usize = 64;

/// A service of a name that no other run has.
pub(crate) struct Place {
    /// Of all names of this run, in the file system too.
    prefix: String,
    root: TempDir,
    words: usize,
    wait: Wait,
}

impl Place {
    fn new(wait: Wait, largest: usize) -> Result<Place> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        set_log_level(LogLevel::Error);
        let number = NEXT.fetch_add(1, Relaxed);
        let prefix = format!("shmworker-bench-{}-{number}-", std::process::id());
        Ok(Place { prefix, root: tempfile::tempdir()?, words: largest / 8, wait })
    }

    fn node(&self) -> Result<Node<ipc::Service>> {
        let mut config = Config::default();
        config.global.prefix = FileName::new(self.prefix.as_bytes())?;
        config.global.set_root_path(&Path::new(self.root.path().as_os_str().as_encoded_bytes())?);
        Ok(NodeBuilder::new().config(&config).create()?)
    }

    /// What a killed partner leaves, and this process too.
    fn clear(&self) -> Result<()> {
        fs::remove_dir_all(self.root.path())?;
        for file in fs::read_dir("/dev/shm")? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(&self.prefix) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// A request and its response.
pub(crate) struct Requests(Place);

type Word = [u64];
type Pending = PendingResponse<ipc::Service, Word, (), Word, ()>;
type Active = ActiveRequest<ipc::Service, Word, (), Word, ()>;

pub(crate) enum RequestEnd {
    Near {
        client: Client<ipc::Service, Word, (), Word, ()>,
        pending: VecDeque<Pending>,
        wait: Wait,
        _node: Node<ipc::Service>,
    },
    Far {
        server: Server<ipc::Service, Word, (), Word, ()>,
        active: Option<Active>,
        wait: Wait,
        _node: Node<ipc::Service>,
    },
}

impl Link for Requests {
    type End = RequestEnd;
    const WINDOW: usize = WINDOW;
    const SPINS: bool = true;
    const IS_IN_PLACE: bool = true;

    fn new(wait: Wait, largest: usize) -> Result<Requests> {
        Ok(Requests(Place::new(wait, largest)?))
    }

    fn end(&'static self, side: Side) -> Result<RequestEnd> {
        let Place { wait, words, .. } = self.0;
        let node = self.0.node()?;
        let service = node
            .service_builder(&"requests".try_into()?)
            .request_response::<Word, Word>()
            .max_active_requests_per_client(WINDOW)
            .max_clients(1)
            .max_servers(1)
            .open_or_create()?;
        if side == Side::Far {
            let server = service.server_builder().initial_max_slice_len(8).create()?;
            return Ok(RequestEnd::Far { server, active: None, wait, _node: node });
        }
        let client = service.client_builder().initial_max_slice_len(words).create()?;
        // What is sent to nobody is lost.
        Wait::Yield.until(|| (service.dynamic_config().number_of_servers() == 1).then_some(()));
        Ok(RequestEnd::Near { client, pending: VecDeque::new(), wait, _node: node })
    }

    fn clear(&self) -> Result<()> {
        self.0.clear()
    }
}

impl End for RequestEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_in_place(bytes.len() / 8, |place| bytemuck::cast_slice_mut(place).copy_from_slice(bytes))
    }

    fn send_in_place(&mut self, words: usize, write: impl FnOnce(&mut [u64])) -> Result<()> {
        match self {
            RequestEnd::Near { client, pending, .. } => {
                // SAFETY: mapped memory has a value in each byte, and all are values of a `u64`.
                let mut request = unsafe { client.loan_slice_uninit(words)?.assume_init() };
                write(request.payload_mut());
                pending.push_back(request.send()?);
            }
            RequestEnd::Far { active, .. } => {
                let request = active.take().ok_or("there is no request to respond to")?;
                // SAFETY: as above.
                let mut response = unsafe { request.loan_slice_uninit(words)?.assume_init() };
                write(response.payload_mut());
                response.send()?;
            }
        }
        Ok(())
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        match self {
            RequestEnd::Near { pending, wait, .. } => {
                let oldest = pending.pop_front().ok_or("no request is under way")?;
                let response = wait.until(|| oldest.receive().transpose())?;
                Ok(with(bytemuck::cast_slice(response.payload())))
            }
            RequestEnd::Far { server, active, wait, .. } => {
                let request = active.insert(wait.until(|| server.receive().transpose())?);
                Ok(with(bytemuck::cast_slice(request.payload())))
            }
        }
    }
}

/// A topic each way.
pub(crate) struct Topics(Place);

pub(crate) struct TopicEnd {
    out: Publisher<ipc::Service, Word, ()>,
    back: Subscriber<ipc::Service, Word, ()>,
    wait: Wait,
    _node: Node<ipc::Service>,
}

impl Link for Topics {
    type End = TopicEnd;
    const WINDOW: usize = WINDOW;
    const SPINS: bool = true;
    const IS_IN_PLACE: bool = true;

    fn new(wait: Wait, largest: usize) -> Result<Topics> {
        Ok(Topics(Place::new(wait, largest)?))
    }

    fn end(&'static self, side: Side) -> Result<TopicEnd> {
        let node = self.0.node()?;
        let topic = |name: &str| -> Result<_> {
            let builder = node.service_builder(&name.try_into()?).publish_subscribe::<Word>();
            Ok(builder
                .subscriber_max_buffer_size(WINDOW)
                .enable_safe_overflow(false)
                .max_publishers(1)
                .max_subscribers(1)
                .open_or_create()?)
        };
        let (out, back) = if side == Side::Near { ("there", "back") } else { ("back", "there") };
        let (out, back) = (topic(out)?, topic(back)?);
        let publisher = out.publisher_builder().initial_max_slice_len(self.0.words).create()?;
        let subscriber = back.subscriber_builder().create()?;
        // What is sent to nobody is lost.
        Wait::Yield.until(|| {
            let (out, back) = (out.dynamic_config(), back.dynamic_config());
            (out.number_of_subscribers() == 1 && back.number_of_publishers() == 1).then_some(())
        });
        Ok(TopicEnd { out: publisher, back: subscriber, wait: self.0.wait, _node: node })
    }

    fn clear(&self) -> Result<()> {
        self.0.clear()
    }
}

impl End for TopicEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_in_place(bytes.len() / 8, |place| bytemuck::cast_slice_mut(place).copy_from_slice(bytes))
    }

    fn send_in_place(&mut self, words: usize, write: impl FnOnce(&mut [u64])) -> Result<()> {
        // SAFETY: mapped memory has a value in each byte, and all are values of a `u64`.
        let mut sample = unsafe { self.out.loan_slice_uninit(words)?.assume_init() };
        write(sample.payload_mut());
        sample.send()?;
        Ok(())
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let sample = self.wait.until(|| self.back.receive().transpose())?;
        Ok(with(bytemuck::cast_slice(sample.payload())))
    }
}
