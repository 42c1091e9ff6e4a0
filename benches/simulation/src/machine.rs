//! A machine as far as it matters here: cores in cache domains, and lines that travel between them.
//!
//! A line is with one core that may write it, or with several that may read it. Who lacks it waits for it: as long as a
//! transfer takes from the nearest core that has it, or to the farthest that must give it up; and one transfer of a line begins
//! when the one before has ended. A core does one thing at a time: it hides no transfer behind another. Nothing is modelled of
//! capacity, of banks, or of memory.

/// Nanoseconds.
pub(crate) type Time = u64;

/// What a transfer takes, by distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    /// Cores that share a last-level cache.
    pub(crate) domain: usize,
    /// Cores of a socket.
    pub(crate) socket: usize,
    pub(crate) near: Time,
    pub(crate) far: Time,
    pub(crate) remote: Time,
}

/// An exchange on a line that its core has already.
const EXCHANGE: Time = 8;
/// A load from a line that its core has already.
const LOAD: Time = 1;

impl Machine {
    pub(crate) fn domain_of(&self, core: usize) -> usize {
        core / self.domain
    }

    fn between(&self, a: usize, b: usize) -> Time {
        match () {
            () if self.domain_of(a) == self.domain_of(b) => self.near,
            () if a / self.socket == b / self.socket => self.far,
            () => self.remote,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Line {
    /// The cores that have it, as bits.
    holders: u128,
    /// It has one holder, who may write it.
    is_exclusive: bool,
    /// Until when it travels.
    busy: Time,
}

/// All lines, and what has travelled.
#[derive(Debug)]
pub(crate) struct Memory {
    machine: Machine,
    lines: Vec<Line>,
    /// Transfers within a domain, and between domains.
    pub(crate) transfers: [u64; 2],
}

impl Memory {
    pub(crate) fn new(machine: Machine, lines: usize) -> Memory {
        Memory { machine, lines: vec![Line::default(); lines], transfers: [0; 2] }
    }

    fn holders(&self, line: usize) -> impl Iterator<Item = usize> {
        let bits = self.lines[line].holders;
        (0..128).filter(move |core| bits >> core & 1 == 1)
    }

    fn count(&mut self, ns: Time) -> Time {
        self.transfers[usize::from(ns > self.machine.near)] += 1;
        ns
    }

    /// When a load that begins now has its value.
    pub(crate) fn load(&mut self, core: usize, line: usize, now: Time) -> Time {
        if self.lines[line].holders >> core & 1 == 1 {
            return now + LOAD;
        }
        let nearest = self.holders(line).map(|holder| self.machine.between(core, holder)).min();
        let took = nearest.map_or(LOAD, |ns| self.count(ns));
        let line = &mut self.lines[line];
        let done = now.max(line.busy) + took;
        // Copies of what nobody writes are handed out side by side.
        if line.is_exclusive {
            line.busy = done;
        }
        line.holders |= 1 << core;
        line.is_exclusive = line.holders.count_ones() == 1;
        done
    }

    /// When a store or an exchange that begins now is done.
    pub(crate) fn exchange(&mut self, core: usize, line: usize, now: Time) -> Time {
        let others = self.holders(line).filter(|holder| *holder != core);
        let farthest = others.map(|holder| self.machine.between(core, holder)).max();
        let took = farthest.map_or(0, |ns| self.count(ns)) + EXCHANGE;
        let line = &mut self.lines[line];
        let done = now.max(line.busy) + took;
        *line = Line { holders: 1 << core, is_exclusive: true, busy: done };
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Machine = Machine { name: "small", domain: 2, socket: 4, near: 20, far: 100, remote: 200 };

    #[test]
    fn a_line_costs_what_its_way_does() {
        let mut memory = Memory::new(SMALL, 1);
        assert_eq!(memory.exchange(0, 0, 0), EXCHANGE, "nobody's");
        assert_eq!(memory.exchange(0, 0, 10), 10 + EXCHANGE);
        assert_eq!(memory.load(1, 0, 100), 120);
        assert_eq!(memory.load(1, 0, 200), 200 + LOAD);
        assert_eq!(memory.load(2, 0, 300), 400);
        assert_eq!(memory.exchange(1, 0, 500), 600 + EXCHANGE, "the farthest has to give it up");
        assert_eq!(memory.exchange(4, 0, 1000), 1200 + EXCHANGE);
        assert_eq!(memory.transfers, [1, 3]);
    }

    #[test]
    fn one_after_another_gets_it() {
        let mut memory = Memory::new(SMALL, 1);
        memory.exchange(0, 0, 0);
        let first = memory.exchange(1, 0, 100);
        assert_eq!(memory.exchange(0, 0, 101), first + 20 + EXCHANGE);
    }
}
