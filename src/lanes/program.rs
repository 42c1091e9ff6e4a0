//! A program that serves lanes in place of this one's own code.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// Which program, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    pub(crate) fn new(path: PathBuf, args: Vec<OsString>) -> Program {
        Program { path, args }
    }

    /// The file with its path or, if that is a mere name, the first of this name in PATH.
    ///
    /// # Errors
    /// There is no such program: which, and what to do.
    pub(crate) fn find(&self) -> Result<Program, String> {
        let Program { path: named, args } = self;
        let shown = named.display();
        let path = if named.components().count() > 1 {
            named.clone()
        } else {
            let places = env::var_os("PATH").unwrap_or_default();
            let found = env::split_paths(&places).map(|dir| dir.join(named)).find(|path| is_executable(path));
            found.ok_or_else(|| {
                format!("no program '{shown}' in PATH: give its path, such as './{shown}', or install it")
            })?
        };
        if !path.exists() {
            return Err(format!("no program '{shown}': build it, or give another path"));
        }
        if !is_executable(&path) {
            return Err(format!("'{shown}' is no executable file: make it one with 'chmod +x', or give another path"));
        }
        // The workers' directory is this one's; what they are started from need not be.
        let path = path.canonicalize().map_err(|e| format!("'{shown}' cannot be looked at: {e}"))?;
        Ok(Program { path, args: args.clone() })
    }

    /// Executes it in place of the calling process. Returns if that fails.
    pub(crate) fn exec(&self, variable: &str, value: &str) -> io::Error {
        Command::new(&self.path).args(&self.args).env(variable, value).exec()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("worker");
        let find = |path: &Path| Program::new(path.to_owned(), vec![]).find();
        let wrong = |path| find(path).unwrap_err();
        assert_eq!(wrong(&file), format!("no program '{}': build it, or give another path", file.display()));
        std::fs::write(&file, "").unwrap();
        assert!(wrong(&file).contains("is no executable file"));
        assert!(wrong(dir.path()).contains("is no executable file"));
        assert!(wrong(Path::new("surely-no-program")).contains("in PATH"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(&file).unwrap().path(), file.canonicalize().unwrap());
        assert!(find(Path::new("sh")).unwrap().path().is_absolute());
    }
}
