//! What all peers have in common: who carries bytes both ways is measured in the same way.

use crate::{
    Figures, Result, Skip,
    case::{Case, Mode, Placement},
    stage::{Cpus, Partner, Wait, pin},
};
use shmworker_benches::Unit;
use std::{
    cell::{Cell, RefCell},
    hint::black_box,
    time::{Duration, Instant},
};

pub(crate) use shmworker::bench_support::Message;

/// A run's measured part, at most: a slow peer makes fewer trips.
const LIMIT: Duration = Duration::from_millis(400);
/// Until caches, pages and predictors are as they stay. At the fast ones these are some ten thousand trips.
const WARM_UP: Duration = Duration::from_millis(30);
/// A batch is so long that reading the clock costs nothing beside it, and shorter than a time slice.
const BATCH: Duration = Duration::from_micros(50);

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Whoever submits.
    Near,
    /// Whoever answers.
    Far,
}

/// A peer's way there and back. Made before its partners are, who share it.
pub(crate) trait Link: Sized + Sync + 'static {
    type End: End;
    /// So many messages may be under way on one link before somebody could wait for somebody who waits for him.
    const WINDOW: usize = 1024;
    /// Bytes of a message, at most.
    const LARGEST: usize = usize::MAX;
    /// Who waits never sleeps: with one worker each side needs a CPU of its own, which the scheduler may not give it by itself.
    const SPINS: bool = false;
    /// Its far ends are threads of this process.
    const ARE_THREADS: bool = false;
    /// Its far ends take from one link together; otherwise each has one of its own.
    const IS_SHARED: bool = Self::ARE_THREADS;
    /// It has [`End::send_in_place`].
    const IS_IN_PLACE: bool = false;

    /// `Err`: it is not installed, or the system refused. `largest`: bytes of a message.
    fn new(wait: Wait, largest: usize) -> Result<Self>;
    fn end(&'static self, side: Side) -> Result<Self::End>;

    /// Once its ends are gone: removes what they leave.
    fn clear(&self) -> Result<()> {
        Ok(())
    }
}

pub(crate) trait End {
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Waits for the next message.
    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R>;

    /// Sends so many words, which `write` finds in shared memory: whatever lay there.
    fn send_in_place(&mut self, _words: usize, _write: impl FnOnce(&mut [u64])) -> Result<()> {
        Err("this peer has no memory to write to in place".into())
    }
}

/// A link and those at its far end.
struct Crew<L: Link> {
    links: Vec<&'static L>,
    near: Vec<L::End>,
    partners: Vec<Partner>,
}

impl<L: Link> Drop for Crew<L> {
    fn drop(&mut self) {
        self.partners.clear();
        self.near.clear();
        for link in &self.links {
            if let Err(e) = link.clear() {
                eprintln!("warning: {e}");
            }
        }
    }
}

impl<L: Link> Crew<L> {
    fn new(workers: usize, wait: Wait, largest: usize, there: Option<usize>, answer: Answer) -> Result<Crew<L>> {
        let far = move |link: &'static L| -> Result<()> {
            if let Some(cpu) = there {
                pin(cpu)?;
            }
            serve(link.end(Side::Far)?, answer)
        };
        let (mut links, mut partners) = (Vec::new(), Vec::new());
        for i in 0..workers {
            if i == 0 || !L::IS_SHARED {
                // For as long as this process lives, which is as long as one run.
                links.push(&*Box::leak(Box::new(L::new(wait, largest)?)));
            }
            let link = links[links.len() - 1];
            partners.push(if L::ARE_THREADS {
                Partner::spawn(move || far(link))
            } else {
                Partner::fork(|| far(link))
            }?);
        }
        let near = links.iter().map(|link| link.end(Side::Near)).collect::<Result<_>>()?;
        Ok(Crew { links, near, partners })
    }
}

/// What the far end gives back.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Echo,
    Digest,
}

fn serve(mut end: impl End, answer: Answer) -> Result<()> {
    loop {
        let message = end.receive(|bytes| answer.of(bytes))?;
        end.send(bytes_of(&message))?;
    }
}

impl Answer {
    pub(crate) fn of(self, bytes: &[u8]) -> Message {
        match self {
            Answer::Echo => message(bytes),
            Answer::Digest => digest(bytes),
        }
    }
}

pub(crate) fn bytes_of(message: &Message) -> &[u8] {
    bytemuck::bytes_of(message)
}

/// Zeros, if these bytes are not as long as a message.
pub(crate) fn message(bytes: &[u8]) -> Message {
    match bytes.as_chunks() {
        (words, []) if words.len() == 8 => std::array::from_fn(|i| u64::from_ne_bytes(words[i])),
        _ => [0; 8],
    }
}

/// The sum of all words of these bytes, eight times.
#[inline(never)] // the same code for all peers
pub(crate) fn digest(bytes: &[u8]) -> Message {
    let (lines, rest) = bytes.as_chunks::<8>().0.as_chunks::<8>();
    // A sum for each column: with a single one the loop is so short that its speed hangs on where its code comes to lie (13 or
    // 19 µs for 1 MiB).
    let mut sums = [0u64; 8];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    let rest = rest.iter().map(|word| u64::from_ne_bytes(*word));
    [sums.into_iter().chain(rest).fold(0, u64::wrapping_add); 8]
}

/// Measures a link at a case.
pub(crate) fn link<L: Link>(case: &Case) -> Result<Figures> {
    match *case {
        Case::RoundTrip { placement: Placement::Asleep, .. } if L::SPINS => Skip::because("it never sleeps"),
        Case::RoundTrip { placement, n, each } => {
            let cpus = Cpus::of(placement)?;
            let wait = if placement == Placement::OneCore { Wait::Yield } else { Wait::Spin };
            let mut crew = Crew::<L>::new(1, wait, size_of::<Message>(), Some(cpus.there), Answer::Echo)?;
            let end = &mut crew.near[0];
            pin(cpus.here)?;
            let trip = |m: &Message| {
                end.send(bytes_of(m))?;
                end.receive(message)
            };
            let partner = &crew.partners[0];
            match placement {
                Placement::Asleep => asleep(n, || partner.await_sleep(), trip),
                _ => trips(n, each, trip),
            }
        }
        Case::Throughput { workers, outstanding, n } => {
            let cpus = if L::SPINS && workers == 1 { Some(Cpus::of(Placement::TwoCores)?) } else { None };
            let wait = Wait::among(workers + 1);
            let there = cpus.map(|c| c.there);
            let mut crew = Crew::<L>::new(workers, wait, size_of::<Message>(), there, Answer::Echo)?;
            cpus.map_or(Ok(()), |c| pin(c.here))?;
            let most = outstanding.min(L::WINDOW * crew.near.len());
            // Round and round: with one link there is one end, which all take from.
            let near: Vec<_> = crew.near.iter_mut().map(RefCell::new).collect();
            let end = |turn: &Cell<usize>| &near[turn.replace((turn.get() + 1) % near.len())];
            let (sent, received) = (Cell::new(0), Cell::new(0));
            window(
                most,
                n,
                |x| end(&sent).borrow_mut().send(bytes_of(&[x; 8])),
                || end(&received).borrow_mut().receive(|bytes| message(bytes)[7]),
            )
        }
        Case::Payload { bytes, mode, n } if bytes <= L::LARGEST && (mode == Mode::Copied || L::IS_IN_PLACE) => {
            let cpus = if L::SPINS { Some(Cpus::of(Placement::TwoCores)?) } else { None };
            let mut crew = Crew::<L>::new(1, Wait::Spin, bytes, cpus.map(|c| c.there), Answer::Digest)?;
            let end = &mut crew.near[0];
            cpus.map_or(Ok(()), |c| pin(c.here))?;
            if mode == Mode::Copied {
                return copied(bytes, n, |payload| {
                    end.send(payload)?;
                    end.receive(message)
                });
            }
            in_place(bytes, mode, n, |write| {
                end.send_in_place(bytes / 8, write)?;
                end.receive(message)
            })
        }
        Case::Payload { bytes, .. } if bytes > L::LARGEST => Skip::because("it has no messages so large"),
        Case::Payload { .. } => Skip::because("it has no memory to write to in place"),
        _ => Skip::because("it carries messages, and has nobody who runs tasks"),
    }
}

/// What a map over so many integers adds up to.
pub(crate) fn sum_of_squares(items: u64) -> u64 {
    (0..items).fold(0, |sum, x| sum.wrapping_add(x.wrapping_mul(x)))
}

/// One task there and back, again and again. One value per batch, or per trip.
pub(crate) fn trips(n: u64, each: bool, mut trip: impl FnMut(&Message) -> Result<Message>) -> Result<Figures> {
    let (start, mut warm) = (Instant::now(), 0);
    while start.elapsed() < WARM_UP {
        warm += 1;
        let sent = std::array::from_fn(|i| warm + i as u64);
        if trip(&sent)? != sent {
            return Err("another message came back than was sent".into());
        }
    }
    let batch = if each { 1 } else { (warm * BATCH.as_nanos() as u64 / WARM_UP.as_nanos() as u64).clamp(1, 200) };
    let (start, mut values) = (Instant::now(), Vec::new());
    while (values.len() as u64) * batch < n && start.elapsed() < LIMIT {
        let begun = Instant::now();
        for x in 0..batch {
            black_box(trip(&[x; 8])?);
        }
        values.push(begun.elapsed().as_nanos() as f64 / batch as f64);
    }
    Ok((Unit::Ns, values))
}

/// As [`trips`], one by one, each after `settle`, which is not counted.
pub(crate) fn asleep(
    n: u64,
    settle: impl Fn() -> Result<()>,
    mut trip: impl FnMut(&Message) -> Result<Message>,
) -> Result<Figures> {
    let (start, mut values) = (Instant::now(), Vec::new());
    // The first ones are not counted: memory is touched by them.
    for x in 0..n + 10 {
        settle()?;
        let begun = Instant::now();
        if trip(&[x; 8])? != [x; 8] {
            return Err("another message came back than was sent".into());
        }
        if x >= 10 {
            values.push(begun.elapsed().as_nanos() as f64);
        }
        if start.elapsed() > 2 * LIMIT {
            break;
        }
    }
    Ok((Unit::Ns, values))
}

/// So many under way at once: sends until there are, then takes one for each that it sends. Messages a second, there and back.
pub(crate) fn window(
    outstanding: usize,
    n: u64,
    mut send: impl FnMut(u64) -> Result<()>,
    mut receive: impl FnMut() -> Result<u64>,
) -> Result<Figures> {
    let (mut sum, mut received) = (0u64, 0u64);
    for x in 0..outstanding as u64 {
        send(x)?;
    }
    let mut sent = outstanding as u64;
    let mut go = |more: u64, limit: Duration| -> Result<(u64, Duration)> {
        let (start, first) = (Instant::now(), received);
        while received - first < more {
            sum = sum.wrapping_add(receive()?);
            received += 1;
            send(sent)?;
            sent += 1;
            if received.is_multiple_of(256) && start.elapsed() > limit {
                break;
            }
        }
        Ok((received - first, start.elapsed()))
    };
    // Each descriptor, slot and page is used a few times first.
    go(n / 4, LIMIT / 4)?;
    let (done, took) = go(n, LIMIT)?;
    while received < sent {
        sum = sum.wrapping_add(receive()?);
        received += 1;
    }
    if sum != (0..sent).fold(0, u64::wrapping_add) {
        return Err("what came back is not what was sent".into());
    }
    Ok((Unit::PerS, vec![done as f64 / took.as_secs_f64()]))
}

/// Results of a stream that has its inputs sent by itself: the number of each, and what came back of it, the same number.
pub(crate) fn flow(n: u64, mut receive: impl FnMut() -> Result<(u64, u64)>) -> Result<Figures> {
    let mut go = |n: u64, limit: Duration| -> Result<f64> {
        let start = Instant::now();
        let mut received = 0u64;
        while received < n && !(received.is_multiple_of(256) && start.elapsed() > limit) {
            let (sent, came) = receive()?;
            if sent != came {
                return Err("what came back is not what was sent".into());
            }
            received += 1;
        }
        Ok(received as f64 / start.elapsed().as_secs_f64())
    };
    go(n / 4, LIMIT / 4)?;
    Ok((Unit::PerS, vec![go(n, LIMIT)?]))
}

/// A payload of the caller's own memory, again and again; a word of it changes each time.
pub(crate) fn copied(bytes: usize, n: u64, mut exchange: impl FnMut(&[u8]) -> Result<Message>) -> Result<Figures> {
    let mut payload = vec![7; bytes];
    let rest = digest(&payload[8..])[0];
    exchanges(n, |x| {
        payload[..8].copy_from_slice(&x.to_ne_bytes());
        Ok(exchange(&payload)? == [rest.wrapping_add(x); 8])
    })
}

/// In the last word of a payload that was written whole before.
const MARK: u64 = 0x5eed;

/// A payload that is written where the worker reads it: one word of it each time, or all. `exchange` is given what writes.
pub(crate) fn in_place(
    bytes: usize,
    mode: Mode,
    n: u64,
    mut exchange: impl FnMut(&mut dyn FnMut(&mut [u64])) -> Result<Message>,
) -> Result<Figures> {
    let words = bytes / 8;
    let sum = 7 * (words as u64 - 2) + MARK;
    exchanges(n, |x| {
        let answer = exchange(&mut |place| {
            // Memory comes round again, but nobody says which piece of it: in some runs one is new.
            if mode == Mode::Built || place[words - 1] != MARK {
                place.fill(7);
                place[words - 1] = MARK;
            }
            place[0] = x;
        })?;
        Ok(answer == [sum + x; 8])
    })
}

/// Times what `exchange` does; it says whether the digest was right.
pub(crate) fn exchanges(n: u64, mut exchange: impl FnMut(u64) -> Result<bool>) -> Result<Figures> {
    let mut time = |x| -> Result<f64> {
        let begun = Instant::now();
        let is_right = exchange(x)?;
        let took = begun.elapsed().as_nanos() as f64;
        if is_right { Ok(took) } else { Err("the digest is not that of the payload".into()) }
    };
    let (start, mut warm) = (Instant::now(), 0);
    while warm < 3 || start.elapsed() < WARM_UP {
        time(warm)?;
        warm += 1;
    }
    let (start, mut values) = (Instant::now(), Vec::new());
    while (values.len() as u64) < n && (values.len() < 3 || start.elapsed() < LIMIT) {
        values.push(time(values.len() as u64)?);
    }
    Ok((Unit::Ns, values))
}
