//! What a death does to a lock in shared memory, and what it does to our lanes.
//!
//! `raw_sync` wraps the process-shared pthread locks. They are not robust: who dies with one takes it along. A binary of one
//! thread, since it forks.

use nix::{
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork, pause, pipe, read, write},
};
use raw_sync::{
    Timeout,
    locks::{LockInit, Mutex},
};
use std::{num::NonZeroUsize, process::Command, time::Duration};

fn main() {
    a_mutex_is_held_for_ever_by_the_dead();
    println!("a_mutex_is_held_for_ever_by_the_dead ... ok");
    a_lane_goes_on_without_the_dead();
    println!("a_lane_goes_on_without_the_dead ... ok");
}

fn a_mutex_is_held_for_ever_by_the_dead() {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which replaces none.
    let page = unsafe { mmap_anonymous(None, NonZeroUsize::new(4096).unwrap(), access, MapFlags::MAP_SHARED) }.unwrap();
    let page: *mut u8 = page.as_ptr().cast();
    assert!(Mutex::size_of(Some(page)) <= 2048);
    // SAFETY: the lock fits into the first half of a page that stays mapped, the data is the second half.
    let (mutex, _) = unsafe { Mutex::new(page, page.wrapping_add(2048)) }.unwrap();
    let (reader, writer) = pipe().unwrap();

    drop(mutex.try_lock(Timeout::Val(Duration::ZERO)).expect("nobody holds it yet"));
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            set_pdeathsig(Signal::SIGKILL).unwrap();
            let held = mutex.lock();
            write(&writer, &[u8::from(held.is_ok())]).unwrap();
            loop {
                pause();
            }
        }
        ForkResult::Parent { child } => {
            let mut is_held = [0];
            assert_eq!((read(&reader, &mut is_held), is_held), (Ok(1), [1]));
            kill(child, Signal::SIGKILL).unwrap();
            assert!(matches!(waitpid(child, None), Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))));
        }
    }
    // The kernel has told us: nobody who could release it runs any more. And yet it is held, and not reported as
    // abandoned (EOWNERDEAD), as a robust one would be.
    let refused = mutex.try_lock(Timeout::Val(Duration::ZERO)).err().expect("it stays locked").to_string();
    assert_eq!(refused, format!("Failed to acquire mutex : {}", nix::libc::ETIMEDOUT));
}

/// Of four consumers that sleep in a receive one is killed: a queue under a lock would be that one's now.
fn a_lane_goes_on_without_the_dead() {
    let output = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["torture", "--experiments"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.lines().any(|line| line == "dead-lock-holder survivors=3 got=100 of 100"), "{stdout}");
}
