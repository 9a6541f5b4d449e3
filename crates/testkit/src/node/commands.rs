//! Commands on a machine of a test cluster.

use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use super::{Node, READY_TIMEOUT};

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs beside a test; dropping it ends it.
pub struct Beside {
    pub(crate) process: Child,
    pub(crate) lines: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Beside {
    /// The lines that it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Its exit code, once it has ended.
    pub fn code(&mut self) -> Option<i32> {
        self.process.try_wait().ok().flatten().map(|s| s.code().unwrap_or(-1))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    /// Runs a command on this machine.
    pub fn run(&self, command: &[String], input: &str) -> Output {
        use std::io::Write as _;
        let spawned = Command::new("timeout")
            .arg(READY_TIMEOUT.as_secs().to_string())
            .arg("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            return Output { code: -1, stdout: String::new(), stderr: "it can't be started".into() };
        };
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        match child.wait_with_output() {
            Ok(output) => Output {
                code: output.status.code().unwrap_or(-1),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            },
            Err(error) => Output { code: -1, stdout: String::new(), stderr: error.to_string() },
        }
    }

    /// Starts a command on this machine that runs beside the test.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn beside(&self, command: &[String]) -> anyhow::Result<Beside> {
        use std::io::BufRead as _;
        let mut process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (to, stdout) = (lines.clone(), process.stdout.take().context("it has no output")?);
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                to.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
            }
        });
        Ok(Beside { process, lines })
    }

    /// Runs the binary under test on this machine.
    pub fn timonel(&self, arguments: &[&str]) -> Output {
        let mut all = vec![self.binary.display().to_string()];
        all.extend(arguments.iter().map(|a| (*a).to_string()));
        self.run(&all, "")
    }
}
