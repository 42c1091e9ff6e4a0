//! A task queue: tasks that wait for polls, or polls that wait for tasks.

use std::collections::VecDeque;
use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Queue<T> {
    tasks: VecDeque<T>,
    polls: VecDeque<oneshot::Sender<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { tasks: VecDeque::new(), polls: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    pub(super) fn push(&mut self, mut task: T) {
        while let Some(poll) = self.polls.pop_front() {
            match poll.send(task) {
                Ok(()) => return,
                // That poll was given up.
                Err(back) => task = back,
            }
        }
        self.tasks.push_back(task);
    }

    /// A task, now or later.
    pub(super) fn poll(&mut self) -> oneshot::Receiver<T> {
        let (send, receive) = oneshot::channel();
        match self.tasks.pop_front() {
            // The receiver is in our hands.
            Some(task) => drop(send.send(task)),
            None => self.polls.push_back(send),
        }
        receive
    }
}
