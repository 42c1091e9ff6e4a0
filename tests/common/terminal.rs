//! A real terminal: the window of a tmux server of its own, in which a line of shell runs.

use super::eventually;
use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) struct Terminal {
    dir: tempfile::TempDir,
}

#[allow(dead_code, reason = "each test program uses a part of it")]
impl Terminal {
    /// Runs the line in a shell, which then says how it ended, and stays. Before it there is one line on the screen.
    #[track_caller]
    pub(crate) fn start(width: u16, height: u16, line: &str) -> Terminal {
        let terminal = Terminal { dir: tempfile::tempdir().unwrap() };
        let line = format!("echo before; {line}; echo \"ended with $?\"; exec cat");
        let (width, height) = (width.to_string(), height.to_string());
        let args = ["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, &line];
        terminal.tmux(&args);
        assert!(fs::metadata(terminal.socket()).unwrap().file_type().is_socket());
        terminal
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("tmux")
    }

    #[track_caller]
    pub(crate) fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let output = command.arg("-S").arg(self.socket()).args(args).output();
        let output = output.unwrap_or_else(|e| panic!("cannot execute tmux ({e}): install it from your distribution"));
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The escape sequences of colours on the screen.
    pub(crate) fn colors(&self) -> usize {
        let screen = self.tmux(&["capture-pane", "-p", "-e"]);
        let sequences = screen.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
        let is_color = |n: &str| matches!(n.parse(), Ok(30..=38 | 40..=48 | 90..=107));
        sequences.filter(|(codes, _)| codes.split(';').any(is_color)).count()
    }

    pub(crate) fn keys(&self, keys: &str) {
        self.tmux(&["send-keys", keys]);
    }

    /// Returns once the screen is as wanted.
    #[track_caller]
    pub(crate) fn shows(&self, is_it: impl Fn(&str) -> bool) {
        eventually("the screen is as wanted", || is_it(&self.screen()).then_some(()));
    }

    #[track_caller]
    pub(crate) fn has(&self, text: &str) {
        eventually(format_args!("'{text}' on the screen"), || self.screen().contains(text).then_some(()));
    }

    /// The first program of the line that runs.
    pub(crate) fn pid(&self) -> i32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let children = Path::new("/proc").join(shell.trim()).join("task").join(shell.trim()).join("children");
        let children = fs::read_to_string(children).unwrap();
        children.split_whitespace().next().expect("it runs").parse().unwrap()
    }

    /// The line has ended so, and the terminal is as it was before, with these words more and without those.
    #[track_caller]
    pub(crate) fn has_ended(&self, code: i32, last_words: &str, gone: &str) {
        self.has(&format!("ended with {code}"));
        let screen = self.screen();
        assert!(screen.starts_with("before\n"), "{screen}");
        assert!(screen.contains(last_words) && !screen.contains(gone), "{screen}");
        let modes = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(modes.trim(), "0 1", "the ordinary screen, with a cursor");
        // Lines are edited and echoed again.
        self.keys("echoed");
        self.has("echoed");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Else it would outlive the test.
        let _ = Command::new("tmux").arg("-S").arg(self.socket()).arg("kill-server").output();
    }
}
