//! Attaching: how a process that the coordinator has not forked becomes a participant, or an observer.
//!
//! # The way in
//!
//! It connects to the socket of the pool ([`super::names`]) and says what it wants. The coordinator looks who it is, by the
//! kernel's word alone, and answers with the segment, the bell and a participant's name, or with a refusal. That is all that the
//! socket is for: tasks never pass through it.
//!
//! # The way out
//!
//! The connection stays open, and says two things, neither of which is a death:
//! - *Goodbye*, after the last use of the segment: the coordinator settles what is left, and the id is free for another.
//! - That it was closed without that: nothing. Who closed it may run on, so it stays a participant until its pidfd says that it
//!   is dead. To those who attached it says that the pool has ended.
//!
//! # Durable clients
//!
//! Who says a name with its request gets the seat that is kept for it ([`crate::lockfree::participant`]), or a new one: nobody else
//! before the coordinator has settled what is left of the one who had it. So two never have it at once, and there is no lock for that.
//! A seat of which nothing is left is given back when its client leaves or dies.
//!
//! # Deaths
//!
//! Each side has the other's pidfd, taken from the connection (SO_PEERPIDFD) or, before Linux 6.5, opened by the number that
//! the connection gives, and then looked at once more. The coordinator recovers a dead guest as it does a child; how that ended
//! only its parent knows. A guest has a thread which sleeps until the coordinator is dead, or the connection closed from its
//! end, and then ends all waits ([`Endpoint::orphan`]).
//!
//! # The coordinator waits for nobody
//!
//! Its end never blocks. Who connects and says nothing is shown out after [`PATIENCE`], or when too many do so; who says
//! something else than expected, at once.
//!
//! Sources: `unix(7)` on SOCK_SEQPACKET, SCM_RIGHTS, SO_PEERCRED; the kernel's `net/core/sock.c` on SO_PEERPIDFD;
//! `pid_namespaces(7)`.

use super::{
    coordinator::processes_for,
    handover::{DoorState, GuestState, number, take_up},
    names::{self, Listener, NameError, Running},
    spawn::{pidfd_open, pidfd_signal},
};
use crate::{
    error::Corrupted,
    exec::endpoint::Endpoint,
    lockfree::{
        participant::{LONGEST_SEAT, Name},
        table::Table,
        word::Member,
    },
    mem::{
        backing::is_pool_name,
        segment::{Segment, SegmentOpenError},
    },
    sync::{Bell, Relaxed},
};
use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        signal::{SigSet, Signal},
        socket::{
            ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, getsockopt, recv, recvmsg, send, sendmsg,
            sockopt::{PeerCredentials, PeerPidfd},
        },
    },
    unistd::{Pid, geteuid, getpid},
};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    fmt,
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt, thread::JoinHandleExt},
    },
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long who has connected may say nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a guest waits for each step of the coordinator's.
const PATIENCE_WITH_COORDINATOR: i64 = 10;
/// So many may have connected and said nothing; then the longest silent one has to go.
const SILENT: usize = 64;
/// How long nobody is let in after the kernel refused to.
const REST: Duration = Duration::from_millis(100);
/// `Participant::role` of a guest.
pub(crate) const GUEST: u32 = u32::MAX;

// ---- what is said ---------------------------------------------------------------------------------------------------

/// First word of every message, and its version.
const MAGIC: u64 = u64::from_le_bytes(*b"shmattc1");

/// Four words, in the byte order of the machine which both are on.
pub(crate) type Message = [u64; 4];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    /// Become a participant.
    Attach,
    /// The same, with the seat of the clients of this name.
    AttachAs(ClientName),
    /// Look, and take no seat.
    Observe,
    /// The segment is unmapped.
    Goodbye,
    /// So many workers from now on.
    Resize(u32),
}

impl Request {
    /// A message; behind it the name, if it has one: who doesn't know that finds a message that is too long.
    fn bytes(self) -> Vec<u8> {
        let (code, detail) = match self {
            Request::Attach => (0, 0),
            Request::Observe => (1, 0),
            Request::Goodbye => (2, 0),
            Request::Resize(workers) => (3, workers),
            Request::AttachAs(_) => (4, 0),
        };
        let mut bytes = [MAGIC, code, 0, detail.into()].map(u64::to_ne_bytes).as_flattened().to_vec();
        if let Request::AttachAs(client) = self {
            bytes.extend(client.0);
        }
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Request> {
        let (message, rest) = bytes.split_first_chunk::<{ size_of::<Message>() }>()?;
        let detail = message.last_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
        let requests = [Request::Attach, Request::Observe, Request::Goodbye, Request::Resize(detail as u32)];
        let named = ClientName::of_bytes(rest).map(Request::AttachAs);
        requests.into_iter().chain(named).find(|request| request.bytes() == bytes)
    }

    /// # Errors
    /// The kernel's.
    fn say(self, socket: &OwnedFd) -> nix::Result<()> {
        send(socket.as_raw_fd(), &self.bytes(), MsgFlags::MSG_NOSIGNAL).map(drop)
    }
}

/// What a durable client is called, padded with zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ClientName([u8; LONGEST_SEAT]);

impl ClientName {
    /// `None`: no client can have it.
    fn of(name: &str) -> Option<ClientName> {
        let mut bytes = [0; LONGEST_SEAT];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        is_pool_name(name).then_some(ClientName(bytes))
    }

    fn of_bytes(bytes: &[u8]) -> Option<ClientName> {
        let name = ClientName(bytes.try_into().ok()?);
        ClientName::of(name.text()?).filter(|same| *same == name)
    }

    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok().map(|text| text.trim_end_matches('\0'))
    }
}

/// Why a pool lets a process not in, or does not do what it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// It belongs to another user, with this id.
    AnotherUser(u32),
    /// Process ids mean something else to it.
    AnotherPidNamespace,
    /// Every participant's id is in use, so many of them.
    Full(u32),
    /// It did not speak this version of the protocol.
    AnotherVersion,
    /// It can have 1 to so many workers; 0: it stays as it is.
    Size(u32),
    /// It is ending.
    Ending,
    /// It does not lie in a file.
    NoFile,
    /// Its owner has this name, in this process.
    OwnersName(u32),
    /// This process has attached under this name.
    ClientInUse(u32),
    /// So many names have places, which are all that there are for them.
    Clients(u32),
}

impl Refusal {
    const fn message(self) -> Message {
        let (code, detail) = match self {
            Refusal::AnotherUser(uid) => (1, uid),
            Refusal::AnotherPidNamespace => (2, 0),
            Refusal::Full(n) => (3, n),
            Refusal::AnotherVersion => (4, 0),
            Refusal::Size(most) => (5, most),
            Refusal::Ending => (6, 0),
            Refusal::NoFile => (7, 0),
            Refusal::OwnersName(pid) => (8, pid),
            Refusal::ClientInUse(pid) => (9, pid),
            Refusal::Clients(n) => (10, n),
        };
        [MAGIC, code, 0, detail as u64]
    }

    fn of(m: Message) -> Option<Refusal> {
        let detail = m[3] as u32;
        let refusals = [
            Refusal::AnotherUser(detail),
            Refusal::AnotherPidNamespace,
            Refusal::Full(detail),
            Refusal::AnotherVersion,
            Refusal::Size(detail),
            Refusal::Ending,
            Refusal::NoFile,
            Refusal::OwnersName(detail),
            Refusal::ClientInUse(detail),
            Refusal::Clients(detail),
        ];
        refusals.into_iter().find(|r| r.message() == m)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::AnotherUser(uid) => write!(f, "it belongs to another user (uid {uid}): attach as that user"),
            Refusal::AnotherPidNamespace => {
                f.write_str("it is in another PID namespace: attach from the container in which it runs")
            }
            Refusal::Full(n) => write!(f, "all its {n} participant ids are in use: end others that are attached"),
            Refusal::AnotherVersion => f.write_str("it is of another version: use the same version of shmworker"),
            Refusal::Size(0) => f.write_str("it has no workers whose number can change"),
            Refusal::Size(n) => {
                write!(
                    f,
                    "it was made for 1 to {n} workers: what it is started with can make that more, by `max_workers` or \
                           '--max-workflow-workers'"
                )
            }
            Refusal::Ending => f.write_str("it is ending"),
            Refusal::NoFile => f.write_str(
                "it does not lie in a file, so nothing in it outlives a client: have it made with Builder::file, or attach without a \
                 client's name",
            ),
            Refusal::OwnersName(pid) => {
                write!(f, "that is the name of the program that has made it (pid {pid}): choose another name")
            }
            Refusal::ClientInUse(pid) => {
                write!(f, "a process has attached under this name (pid {pid}): end that, or choose another name")
            }
            Refusal::Clients(n) => write!(
                f,
                "{n} other clients have places in its file: have one of them take its results (Attached::adopted), or choose one of \
                 their names"
            ),
        }
    }
}

/// The answer to who is let in: a name, or 0 for an observer. To who asks for another size: how many workers there were.
const fn welcome(word: u64) -> Message {
    [MAGIC, 0, word, 0]
}

/// # Errors
/// The kernel's: the other end is gone, or has not read for long.
pub(crate) fn say(socket: &OwnedFd, message: Message, fds: &[RawFd]) -> nix::Result<()> {
    let bytes = message.map(u64::to_ne_bytes);
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes.as_flattened())], rights, flags, None).map(drop)
}

/// What the other end asks for. `None`: something else. EOF is 0 bytes, and so something else.
fn hear(socket: &OwnedFd, flags: MsgFlags) -> nix::Result<Option<Request>> {
    let mut bytes = [0; size_of::<Message>() + LONGEST_SEAT];
    // MSG_TRUNC: the length that was sent, so that a longer message isn't taken for its beginning.
    let len = recv(socket.as_raw_fd(), &mut bytes, flags | MsgFlags::MSG_TRUNC)?;
    Ok(bytes.get(..len).and_then(Request::of))
}

/// What the other end has said, if it is a message, with the descriptors that came along.
///
/// # Errors
/// The kernel's.
pub(crate) fn hear_with_fds(socket: &OwnedFd) -> nix::Result<(Option<Message>, Vec<OwnedFd>)> {
    let mut bytes = [[0; 8]; 4];
    let mut space = cmsg_space!([RawFd; 2]);
    let mut slices = [IoSliceMut::new(bytes.as_flattened_mut())];
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    let Ok(messages) = received.cmsgs() else {
        // They are truncated where there is no room for them, which is of this process's making. Some have come for all that.
        drop(truncated(&space));
        return Err(Errno::EMFILE);
    };
    for message in messages {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just given us these descriptors, which nobody else knows.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let whole = received.bytes == size_of::<Message>() && !received.flags.contains(MsgFlags::MSG_TRUNC);
    Ok((whole.then(|| bytes.map(u64::from_ne_bytes)), fds))
}

/// The descriptors in a control message that was truncated, which `nix` doesn't give: as `cmsg(3)` has it, a length with that of
/// the header, level and type.
fn truncated(space: &[u8]) -> Vec<OwnedFd> {
    let Some((header, data)) = space.split_at_checked(size_of::<libc::cmsghdr>()) else { return Vec::new() };
    let (len, kind) = header.split_at(size_of::<usize>());
    let len = len.try_into().map_or(0, usize::from_ne_bytes).saturating_sub(header.len());
    let rights = [libc::SOL_SOCKET, libc::SCM_RIGHTS].map(i32::to_ne_bytes);
    if kind != rights.as_flattened() {
        return Vec::new();
    }
    let (numbers, _) = data[..len.min(data.len())].as_chunks();
    // SAFETY: the kernel has just given us these descriptors, which nobody else knows.
    numbers.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*fd)) }).collect()
}

// ---- who is there ---------------------------------------------------------------------------------------------------

/// The process at the other end of a connection.
struct Peer {
    uid: u32,
    /// As numbers are in this process's PID namespace; 0: it is not visible there.
    pid: i32,
    /// `None`: it is gone, or not visible.
    pidfd: Option<OwnedFd>,
}

fn peer(socket: &OwnedFd) -> nix::Result<Peer> {
    let credentials = getsockopt(socket, PeerCredentials)?;
    let pidfd = match getsockopt(socket, PeerPidfd) {
        Ok(fd) => Some(fd),
        Err(Errno::ENOPROTOOPT) => pidfd_by_number(socket, credentials.pid()),
        Err(e @ (Errno::EMFILE | Errno::ENFILE)) => return Err(e),
        Err(_) => None,
    };
    Ok(Peer { uid: credentials.uid(), pid: credentials.pid(), pidfd })
}

/// For kernels before 6.5. A number can be another's by the time that it is opened; not as long as its owner lives, which had
/// the other end of this socket, so the connection is looked at afterwards.
fn pidfd_by_number(socket: &OwnedFd, pid: i32) -> Option<OwnedFd> {
    let pidfd = (pid > 0).then(|| pidfd_open(Pid::from_raw(pid)).ok())??;
    let is_open = !news_of([socket.as_fd()]).is_ok_and(|[events]| events.contains(PollFlags::POLLHUP));
    is_open.then_some(pidfd)
}

/// What `poll` says of these now.
fn news_of<const N: usize>(fds: [BorrowedFd<'_>; N]) -> nix::Result<[PollFlags; N]> {
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty())))
}

/// Does a process, which lives, see the same process ids as this one?
fn shares_our_pid_namespace(pid: i32) -> io::Result<bool> {
    let id = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/pid")).map(|m| (m.dev(), m.ino()));
    Ok(id("self")? == id(&pid.to_string())?)
}

/// May this process take part? `None`: it is gone.
fn examine(socket: &OwnedFd) -> Option<Result<(i32, OwnedFd), Refusal>> {
    let Peer { uid, pid, pidfd } = peer(socket).ok()?;
    let us = geteuid().as_raw();
    if uid != us {
        return Some(Err(Refusal::AnotherUser(us)));
    }
    // Where it can't be seen it isn't known to be the same.
    if pid == 0 || !shares_our_pid_namespace(pid).unwrap_or(false) {
        return Some(Err(Refusal::AnotherPidNamespace));
    }
    // It lived after its number was used.
    let pidfd = pidfd?;
    let is_dead = news_of([pidfd.as_fd()]).is_ok_and(|[events]| !events.is_empty());
    (!is_dead).then_some(Ok((pid, pidfd)))
}

// ---- the coordinator's end ------------------------------------------------------------------------------------------

/// A participant that has attached.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) name: Name,
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    /// `None`: closed, which says nothing.
    connection: Option<OwnedFd>,
    was_killed: bool,
}

/// A guest that has gone.
#[derive(Debug)]
pub(crate) struct Departed {
    pub(crate) guest: Guest,
    /// It said goodbye.
    pub(crate) was_orderly: bool,
}

/// What happened at the door since the last look.
#[derive(Default)]
pub(crate) struct News {
    /// To be recovered before anybody is let in.
    pub(crate) departed: Vec<Departed>,
    requests: Vec<(OwnedFd, Request)>,
}

/// The coordinator's end: the socket, who stands before it, and who has come in.
pub(crate) struct Door {
    listener: Listener,
    silent: VecDeque<(OwnedFd, Instant)>,
    guests: Vec<Guest>,
    rests_until: Option<Instant>,
}

impl Door {
    /// Listens under a name.
    ///
    /// # Errors
    /// [`NameError`].
    pub(crate) fn open(name: &str) -> Result<Door, NameError> {
        let listener = Listener::open(name)?;
        Ok(Door { listener, silent: VecDeque::new(), guests: Vec::new(), rests_until: None })
    }

    /// As it is handed over to another program of this process. `None`: somebody is about to come in.
    pub(crate) fn state(&self) -> Option<DoorState> {
        let guest = |guest: &Guest| GuestState {
            name: guest.name.bits(),
            pid: guest.pid,
            pidfd: number(&guest.pidfd),
            connection: guest.connection.as_ref().map(number),
            was_killed: guest.was_killed,
        };
        self.silent.is_empty().then(|| DoorState {
            listener: number(&self.listener.socket),
            path: self.listener.path.as_os_str().as_bytes().to_owned(),
            inode: self.listener.inode(),
            guests: self.guests.iter().map(guest).collect(),
        })
    }

    /// What [`state`](Self::state) has described.
    ///
    /// # Errors
    /// A descriptor is not there.
    pub(crate) fn of(state: &DoorState) -> nix::Result<Door> {
        let path = PathBuf::from(OsStr::from_bytes(&state.path));
        let guest = |state: &GuestState| {
            Ok(Guest {
                name: Name::of(state.name),
                pid: state.pid,
                pidfd: take_up(state.pidfd)?,
                connection: state.connection.map(take_up).transpose()?,
                was_killed: state.was_killed,
            })
        };
        Ok(Door {
            listener: Listener::of(take_up(state.listener)?, path, state.inode),
            silent: VecDeque::new(),
            guests: state.guests.iter().map(guest).collect::<nix::Result<_>>()?,
            rests_until: None,
        })
    }

    /// How many are attached.
    pub(crate) fn guests(&self) -> usize {
        self.guests.len()
    }

    /// The process of the guest of this name, to be looked at: by the time of that the number may be another's.
    pub(crate) fn pid_of(&self, name: Name) -> Option<Pid> {
        self.guests.iter().find(|guest| guest.name == name).map(|guest| Pid::from_raw(guest.pid))
    }

    /// Kills the guest of this name, whose time is over. `None`: there is none, or that was done.
    pub(crate) fn kill(&mut self, name: Name) -> Option<i32> {
        let guest = self.guests.iter_mut().find(|g| g.name == name && !g.was_killed)?;
        guest.was_killed = true;
        // It may have ended by itself.
        let _ = pidfd_signal(guest.pidfd.as_fd(), Signal::SIGKILL);
        Some(guest.pid)
    }

    /// What is to be polled for input.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = self.rests_until.is_none().then_some(self.listener.socket.as_fd());
        let silent = self.silent.iter().map(|(socket, _)| socket.as_fd());
        let guests = self.guests.iter();
        listener.into_iter().chain(silent).chain(
            guests.flat_map(|g| [Some(g.pidfd.as_fd()), g.connection.as_ref().map(AsFd::as_fd)].into_iter().flatten()),
        )
    }

    /// When to look though nothing has happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.silent.front().map(|(_, since)| *since + PATIENCE).into_iter().chain(self.rests_until).min()
    }

    /// Looks who has come, spoken or gone. Never blocks.
    pub(crate) fn look(&mut self) -> News {
        let mut news = News::default();
        // Requests first, and they are answered last: who asks after another's death finds that settled.
        let now = Instant::now();
        for (socket, since) in std::mem::take(&mut self.silent) {
            match hear(&socket, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) if now < since + PATIENCE => self.silent.push_back((socket, since)),
                // To no effect where it has gone.
                Ok(Some(Request::Goodbye) | None) => refuse(&socket, Refusal::AnotherVersion),
                Ok(Some(request)) => news.requests.push((socket, request)),
                Err(_) => {}
            }
        }
        for mut guest in std::mem::take(&mut self.guests) {
            match guest.has_gone() {
                Some(was_orderly) => news.departed.push(Departed { guest, was_orderly }),
                None => self.guests.push(guest),
            }
        }
        self.rests_until = self.rests_until.filter(|until| *until > now);
        if self.rests_until.is_none() {
            self.let_in(now);
        }
        news
    }

    fn let_in(&mut self, now: Instant) {
        for _ in 0..SILENT {
            match accept4(self.listener.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
                Ok(socket) => {
                    if self.silent.len() == SILENT {
                        self.silent.pop_front();
                    }
                    // SAFETY: the kernel has just given us this descriptor.
                    self.silent.push_back((unsafe { OwnedFd::from_raw_fd(socket) }, now));
                }
                Err(Errno::ECONNABORTED | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // No descriptor or memory is left. It stays readable, so without a rest we would spin.
                Err(_) => {
                    self.rests_until = Some(now + REST);
                    return;
                }
            }
        }
    }

    /// Answers what was asked for, once who has gone was recovered. Returns who wants another size, which
    /// [`answer_resize`] answers. `owner`: whose pool it is, if not the coordinator's own.
    ///
    /// # Errors
    /// [`Corrupted`] if a participant's word is damaged.
    pub(crate) fn answer(
        &mut self,
        news: News,
        segment: &Segment,
        bell: BorrowedFd<'_>,
        owner: Option<Name>,
    ) -> Result<Vec<(OwnedFd, u32)>, Corrupted> {
        let mut sizes = Vec::new();
        for (socket, request) in news.requests {
            let (pid, pidfd) = match examine(&socket) {
                Some(Ok(peer)) => peer,
                Some(Err(refusal)) => {
                    refuse(&socket, refusal);
                    continue;
                }
                None => continue,
            };
            let fds = [segment.as_fd().as_raw_fd(), bell.as_raw_fd()];
            let client = match request {
                Request::Attach => None,
                Request::AttachAs(client) => Some(client),
                Request::Resize(workers) => {
                    sizes.push((socket, workers));
                    continue;
                }
                Request::Observe | Request::Goodbye => {
                    // Who has gone meanwhile needs no answer.
                    let _ = say(&socket, welcome(0), &fds[..1]);
                    continue;
                }
            };
            let table = segment.table();
            let place = match client {
                None => admit(table, pid as u32)?,
                Some(client) => self.seat(table, client.text().unwrap_or_default(), owner, pid as u32)?,
            };
            let name = match place {
                Ok(name) => name,
                Err(refusal) => {
                    refuse(&socket, refusal);
                    continue;
                }
            };
            // If it has gone meanwhile its pidfd tells.
            let _ = say(&socket, welcome(name.bits()), &fds);
            self.guests.push(Guest { name, pid, pidfd, connection: Some(socket), was_killed: false });
        }
        Ok(sizes)
    }

    /// The seat of a durable client, which nobody else has: that of its name, or a new one.
    fn seat(
        &self,
        table: &Table<'_>,
        client: &str,
        owner: Option<Name>,
        pid: u32,
    ) -> Result<Result<Name, Refusal>, Corrupted> {
        let mut seats = 0;
        for (id, p) in table.participants.iter().enumerate() {
            let (Member::Live(n), Some(other)) = (p.member(id)?, p.seat_of()) else { continue };
            seats += 1;
            if other != client {
                continue;
            }
            let name = Name::new(id as u16, n);
            if Some(name) == owner {
                return Ok(Err(Refusal::OwnersName(p.pid.load(Relaxed))));
            }
            if let Some(guest) = self.guests.iter().find(|guest| guest.name == name) {
                return Ok(Err(Refusal::ClientInUse(guest.pid as u32)));
            }
            p.take_seat(pid, GUEST);
            return Ok(Ok(name));
        }
        // The owner of a pool that lies in a file has one.
        if seats == 0 {
            return Ok(Err(Refusal::NoFile));
        }
        // Who is absent is to leave room for the second lives of the others, and for a start.
        let participants = table.participants.len();
        if seats > (participants - processes_for(participants)) / 2 {
            return Ok(Err(Refusal::Clients(seats as u32)));
        }
        let place = admit(table, pid)?;
        if let Ok(name) = place {
            table.participants[usize::from(name.id())].keep_for(client);
        }
        Ok(place)
    }
}

fn admit(table: &Table<'_>, pid: u32) -> Result<Result<Name, Refusal>, Corrupted> {
    Ok(table.admit(pid, GUEST)?.ok_or(Refusal::Full(table.participants.len() as u32)))
}

/// Tells who wanted another size how many workers there were, or why it stays.
pub(crate) fn answer_resize(socket: &OwnedFd, outcome: Result<usize, Refusal>) {
    let answer = outcome.map_or_else(Refusal::message, |from| welcome(from as u64));
    // Who has gone meanwhile needs none.
    let _ = say(socket, answer, &[]);
}

/// A refusal that can't be delivered is seen as a closed connection.
fn refuse(socket: &OwnedFd, why: Refusal) {
    let _ = say(socket, why.message(), &[]);
}

impl Guest {
    /// Some(true): it said goodbye. Some(false): it is dead.
    fn has_gone(&mut self) -> Option<bool> {
        if let Some(connection) = &self.connection {
            match hear(connection, MsgFlags::MSG_DONTWAIT) {
                Ok(Some(Request::Goodbye)) => return Some(true),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                _ => self.connection = None,
            }
        }
        news_of([self.pidfd.as_fd()]).is_ok_and(|[events]| !events.is_empty()).then_some(false)
    }
}

// ---- the other end --------------------------------------------------------------------------------------------------

/// Why a process could not attach.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AttachError {
    /// Its name is none, or sockets can't be looked for.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nobody answers to it.
    #[error("no pool '{name}' runs{}", Others(running))]
    NotRunning {
        /// The name.
        name: String,
        /// Those that do.
        running: Vec<String>,
    },
    /// The pool does not let this process in.
    #[error("pool '{name}' refuses: {why}")]
    Refused {
        /// The pool.
        name: String,
        /// Its reason.
        why: Refusal,
    },
    /// The same, of a client of this name.
    #[cfg(feature = "pool")]
    #[error("pool '{name}' refuses the client '{client}': {why}")]
    RefusedClient {
        /// The pool.
        name: String,
        /// The client.
        client: String,
        /// Its reason.
        why: Refusal,
    },
    /// No client can have this name.
    #[cfg(feature = "pool")]
    #[error("invalid client name '{0}': use 1 to {LONGEST_SEAT} letters, digits, '.', '_' and '-'")]
    ClientName(String),
    /// The coordinator does not answer.
    #[error("the coordinator of pool '{name}' (pid {pid}) does not answer for {seconds} s: it may be stopped")]
    Silent {
        /// The pool.
        name: String,
        /// The process.
        pid: i32,
        /// How long it had.
        seconds: i64,
    },
    /// It said something else than it should, or went away.
    #[error("the coordinator of pool '{0}' ended, or is of another version: try again")]
    Unexpected(String),
    /// What it gave could not be used.
    #[error("cannot attach to pool '{name}': {source}")]
    Segment {
        /// The pool.
        name: String,
        /// What is wrong with its segment.
        source: SegmentOpenError,
    },
    /// The kernel refused a step.
    #[error("cannot {step} pool '{name}': {source}")]
    Os {
        /// What was refused.
        step: &'static str,
        /// The pool.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl AttachError {
    /// Is the pool of a version with another protocol, or another layout of the segment?
    pub(crate) fn is_of_another_version(&self) -> bool {
        use SegmentOpenError::{NotASegment, VersionMismatch};
        matches!(
            self,
            AttachError::Refused { why: Refusal::AnotherVersion, .. }
                | AttachError::Segment { source: VersionMismatch { .. } | NotASegment { .. }, .. }
        )
    }
}

struct Others<'a>(&'a [String]);

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str(", nor does any other of this user"),
            others => write!(f, "; these do: {}", others.join(", ")),
        }
    }
}

/// What the coordinator gave.
struct Given {
    socket: OwnedFd,
    word: u64,
    fds: Vec<OwnedFd>,
}

/// Knocks, and asks.
fn ask(name: &str, request: Request) -> Result<Given, AttachError> {
    match names::connect_to(name, PATIENCE_WITH_COORDINATOR)? {
        Some(socket) => converse(name, socket, request),
        None => {
            let running = names::running()?.iter().map(Running::to_string).collect();
            Err(AttachError::NotRunning { name: name.to_owned(), running })
        }
    }
}

/// Asks, and waits for the answer.
fn converse(name: &str, socket: OwnedFd, request: Request) -> Result<Given, AttachError> {
    let seconds = PATIENCE_WITH_COORDINATOR;
    let result = request.say(&socket).and_then(|()| {
        loop {
            match hear_with_fds(&socket) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    });
    if let Ok((Some([MAGIC, 0, word, 0]), fds)) = result {
        return Ok(Given { socket, word, fds });
    }
    // Who was let in all the same, or is as soon as the coordinator goes on, takes no seat.
    goodbye(&socket);
    match result {
        Ok((Some(message), _)) if let Some(why) = Refusal::of(message) => {
            Err(AttachError::Refused { name: name.to_owned(), why })
        }
        Err(Errno::EAGAIN) => {
            let pid = peer(&socket).map_or(0, |p| p.pid);
            Err(AttachError::Silent { name: name.to_owned(), pid, seconds })
        }
        Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Err(AttachError::Unexpected(name.to_owned())),
        Err(e) => Err(os("speak to", name)(e)),
    }
}

fn os<E: Into<io::Error>>(step: &'static str, name: &str) -> impl Fn(E) -> AttachError {
    move |source| AttachError::Os { step, name: name.to_owned(), source: source.into() }
}

/// The segment of a running pool, to look at. Takes no participant's seat.
///
/// # Errors
/// [`AttachError`].
pub(crate) fn observe(name: &str) -> Result<Segment, AttachError> {
    look_at(name, ask(name, Request::Observe)?)
}

/// As [`observe`], over a connection that was made already.
///
/// # Errors
/// [`AttachError`].
pub(crate) fn observe_over(name: &str, connection: OwnedFd) -> Result<Segment, AttachError> {
    look_at(name, converse(name, connection, Request::Observe)?)
}

fn look_at(name: &str, Given { fds, .. }: Given) -> Result<Segment, AttachError> {
    let fd = fds.into_iter().next().ok_or_else(|| AttachError::Unexpected(name.to_owned()))?;
    Segment::attach(fd, false).map_err(|source| AttachError::Segment { name: name.to_owned(), source })
}

/// Has a running pool have so many workers from now on. Returns how many it had.
///
/// # Errors
/// [`AttachError`].
pub(crate) fn resize(name: &str, workers: u32) -> Result<u64, AttachError> {
    ask(name, Request::Resize(workers)).map(|Given { word, .. }| word)
}

/// This process's seat in a pool that another has made. Given up when dropped.
///
/// A process forked from this one does not have it: the segment isn't mapped there.
pub(crate) struct Attached(Option<Inside>);

struct Inside {
    endpoint: Arc<Endpoint>,
    bell: RawFd,
    coordinator: i32,
    owner: Pid,
}

/// The seat itself, which the endpoint keeps: it is given up with the last who uses that, which may be later than [`Attached`].
struct Place {
    connection: Arc<OwnedFd>,
    /// Ends the thread that watches the coordinator: until then somebody may wait, whom nobody else would tell.
    enough: Arc<EventFd>,
    watcher: Arc<OnceLock<JoinHandle<()>>>,
    _bell: OwnedFd,
    owner: Pid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let watcher = Arc::get_mut(&mut self.watcher).and_then(OnceLock::take);
        if getpid() != self.owner {
            // There is no such thread in the copy of a forked child.
            std::mem::forget(watcher);
            return;
        }
        let _ = self.enough.write(1); // can't fail: nobody else counts on it
        // Which may be this very one, if it had the endpoint last. (What `thread::current` makes in a thread of a C program is a leak
        // to those who look for some.)
        // SAFETY: it only reads.
        let this = unsafe { libc::pthread_self() };
        if let Some(watcher) = watcher.filter(|watcher| watcher.as_pthread_t() != this) {
            let _ = watcher.join();
        }
        goodbye(&self.connection);
    }
}

/// Makes this process a participant of the pool with this name, or with this coordinator's process id. Starts a thread.
///
/// # Errors
/// [`AttachError`].
pub(crate) fn attach(name: &str) -> Result<Attached, AttachError> {
    sit_down(name, ask(name, Request::Attach)?, Ok)
}

/// The same with the seat of the clients of this name. `begin` makes its end a durable one: if it fails, the seat is given up.
///
/// # Errors
/// [`AttachError`], and those of `begin`.
#[cfg(feature = "pool")]
pub(crate) fn attach_as<E: From<AttachError>>(
    name: &str,
    client: &str,
    begin: impl FnOnce(Endpoint) -> Result<Endpoint, E>,
) -> Result<Attached, E> {
    let request = ClientName::of(client).map(Request::AttachAs);
    let request = request.ok_or_else(|| AttachError::ClientName(client.to_owned()))?;
    let given = ask(name, request).map_err(|e| match e {
        AttachError::Refused { name, why } if why != Refusal::AnotherVersion => {
            AttachError::RefusedClient { name, client: client.to_owned(), why }
        }
        e => e,
    })?;
    sit_down(name, given, begin)
}

fn sit_down<E: From<AttachError>>(
    name: &str,
    Given { socket, word, fds }: Given,
    begin: impl FnOnce(Endpoint) -> Result<Endpoint, E>,
) -> Result<Attached, E> {
    let enter = || {
        let Ok([segment, bell]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(AttachError::Unexpected(name.to_owned()));
        };
        let Peer { pid: coordinator, pidfd, .. } = peer(&socket).map_err(os("look at the coordinator of", name))?;
        let pidfd = pidfd.ok_or_else(|| AttachError::Unexpected(name.to_owned()))?;
        let in_segment = |source| AttachError::Segment { name: name.to_owned(), source };
        let segment = Segment::attach(segment, true).map_err(in_segment)?;
        segment.settle().map_err(os("keep children away from", name))?;
        let word = Name::of(word);
        segment.table().check_participant(word).map_err(|_| AttachError::Unexpected(name.to_owned()))?;
        let enough = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(os("make an eventfd for", name))?;
        let endpoint = Endpoint::new(Arc::new(segment), word).with_bell(Bell::new(bell.as_raw_fd()));
        Ok((endpoint, bell, Arc::new(enough), coordinator, pidfd))
    };
    let entered = enter().map_err(E::from).and_then(|(endpoint, bell, enough, coordinator, pidfd)| {
        Ok((begin(endpoint)?, bell, enough, coordinator, pidfd))
    });
    // Whatever goes wrong from here on, the seat is given up.
    let (endpoint, bell, enough, coordinator, pidfd) = entered.inspect_err(|_| goodbye(&socket))?;
    let (connection, owner, rung) = (Arc::new(socket), getpid(), bell.as_raw_fd());
    let watcher = Arc::new(OnceLock::new());
    let place =
        Place { connection: connection.clone(), enough: enough.clone(), watcher: watcher.clone(), _bell: bell, owner };
    let endpoint = Arc::new(endpoint.holding(place));
    // Weak: it is there for as long as others use the endpoint.
    let watched = (Arc::downgrade(&endpoint), connection, enough);
    let spawned = std::thread::Builder::new().name("coordinator-watch".into()).spawn(move || {
        // Signals are for the threads of the program.
        let _ = SigSet::all().thread_block();
        let (endpoint, connection, enough) = watched;
        watch(&endpoint, pidfd.as_fd(), connection.as_fd(), enough.as_fd());
    });
    let _ = watcher.set(spawned.map_err(os("start a thread for", name))?); // it is the first
    // Only the place has it from here on.
    drop(watcher);
    Ok(Attached(Some(Inside { endpoint, bell: rung, coordinator, owner })))
}

/// The segment is not used any more.
fn goodbye(connection: &OwnedFd) {
    // A coordinator that is dead needs none.
    let _ = Request::Goodbye.say(connection);
}

/// Sleeps until the coordinator has gone, which ends all waits, or nobody here uses the endpoint any more.
fn watch(endpoint: &Weak<Endpoint>, coordinator: BorrowedFd<'_>, connection: BorrowedFd<'_>, enough: BorrowedFd<'_>) {
    let mut fds = [coordinator, connection, enough].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    if !fds[2].any().unwrap_or(false)
        && let Some(endpoint) = endpoint.upgrade()
    {
        endpoint.orphan();
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("coordinator", &self.coordinator()).finish_non_exhaustive()
    }
}

impl Attached {
    fn inside(&self) -> &Inside {
        self.0.as_ref().unwrap_or_else(|| unreachable!("taken by drop alone"))
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.inside().endpoint
    }

    /// What rings the coordinator. It is open for as long as this process may use the segment.
    pub(crate) fn bell(&self) -> RawFd {
        self.inside().bell
    }

    /// The process id of the coordinator.
    pub(crate) fn coordinator(&self) -> i32 {
        self.inside().coordinator
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Some(inside) = self.0.take() else { return };
        if getpid() != inside.owner {
            // The copy of a forked child: neither mapping nor thread exist here, and the seat is its parent's.
            std::mem::forget(inside);
        }
        // Else somebody may use the endpoint on. The seat is given up after that.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn descriptors_that_came_with_too_many_others_are_closed() {
        let (here, there) = pair();
        let (reading, writing) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        say(&there, [0; 4], &[writing.as_raw_fd(); 5]).unwrap();
        drop(writing);
        assert_eq!(hear_with_fds(&here).unwrap_err(), Errno::EMFILE);
        assert_eq!(nix::unistd::read(&reading, &mut [0]), Ok(0), "nobody has it open to write");
    }

    #[test]
    fn what_is_said_is_understood_and_nothing_else() {
        let (here, there) = pair();
        let names = ["a", &"x".repeat(LONGEST_SEAT)].map(|name| Request::AttachAs(ClientName::of(name).unwrap()));
        let requests = [Request::Attach, Request::Observe, Request::Goodbye, Request::Resize(7)];
        for request in requests.into_iter().chain(names) {
            request.say(&here).unwrap();
            assert_eq!(hear(&there, MsgFlags::empty()), Ok(Some(request)));
        }
        for name in ["", "a b", "a\0b", &"x".repeat(LONGEST_SEAT + 1)] {
            assert_eq!(ClientName::of(name), None);
        }
        let refusals = [
            Refusal::AnotherUser(7),
            Refusal::AnotherPidNamespace,
            Refusal::Full(64),
            Refusal::AnotherVersion,
            Refusal::Size(7),
            Refusal::Ending,
            Refusal::NoFile,
            Refusal::OwnersName(7),
            Refusal::ClientInUse(7),
            Refusal::Clients(7),
        ];
        for refusal in refusals {
            assert_eq!(Refusal::of(refusal.message()), Some(refusal));
        }
        assert_eq!(Refusal::of(welcome(0)), None);
        let unnamed = Request::AttachAs(ClientName([0; LONGEST_SEAT])).bytes();
        for garbage in [&[0u8; 1][..], &[0xff; 32], &[7; 1000], &unnamed, &unnamed[..40]] {
            send(here.as_raw_fd(), garbage, MsgFlags::empty()).unwrap();
            assert_eq!(hear(&there, MsgFlags::empty()), Ok(None));
        }
        drop(here);
        assert_eq!(hear(&there, MsgFlags::empty()), Ok(None));
    }

    #[test]
    fn descriptors_travel_and_are_closed_on_exec() {
        let (here, there) = pair();
        say(&here, welcome(9), &[here.as_raw_fd(), there.as_raw_fd()]).unwrap();
        let (message, fds) = hear_with_fds(&there).unwrap();
        assert_eq!((message, fds.len()), (Some(welcome(9)), 2));
        for fd in fds {
            let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn a_peer_is_known_by_the_socket_and_by_its_number() {
        let (here, there) = pair();
        let me = std::process::id() as i32;
        let Peer { uid, pid, pidfd } = peer(&here).unwrap();
        assert_eq!((uid, pid, pidfd.is_some()), (geteuid().as_raw(), me, true));
        assert!(pidfd_by_number(&here, me).is_some());
        assert!(pidfd_by_number(&here, 0).is_none(), "not visible");
        assert!(shares_our_pid_namespace(me).unwrap());
        drop(there);
        assert!(pidfd_by_number(&here, me).is_none(), "it may be another's number by now");
    }
}
