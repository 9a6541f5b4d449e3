//! Output of programs. It may contain names of files, so its size is untrusted.

use std::io;
use std::process::{Output, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// Runs a program with `input` on its standard input, and waits for its exit. The first `limit` bytes of each of stdout and stderr are
/// returned; the rest is read and dropped, so that the program never blocks on a full pipe. Dropping the future kills the program.
///
/// # Errors
/// When it can't be started or waited for, or a pipe can't be read.
pub async fn output(command: &mut tokio::process::Command, input: &[u8], limit: u64) -> io::Result<Output> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let told = async {
        if let Some(mut stdin) = stdin {
            // A program may exit without reading all of its input; its exit code tells.
            let _ = stdin.write_all(input).await;
        }
        Ok(())
    };
    let (stdout, stderr, ()) = tokio::try_join!(read_capped(stdout, limit), read_capped(stderr, limit), told)?;
    let status = child.wait().await?;
    Ok(Output { status, stdout, stderr })
}

async fn read_capped(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let (Some(mut pipe), mut kept) = (pipe, Vec::new()) else { return Ok(Vec::new()) };
    #[expect(clippy::disallowed_methods, reason = "this is the limit")]
    (&mut pipe).take(limit).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(kept)
}

/// [`output`] for a thread that may block.
///
/// # Errors
/// As [`output`].
pub fn output_blocking(command: &mut std::process::Command, input: &[u8], limit: u64) -> io::Result<Output> {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = std::thread::scope(|scope| {
        let errors = scope.spawn(|| read_capped_blocking(stderr, limit));
        // A program may exit without reading all of its input; its exit code tells.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
        (read_capped_blocking(stdout, limit), errors.join())
    });
    let status = child.wait()?;
    let stderr = stderr.map_err(|_| io::Error::other("the thread that reads stderr panicked"))??;
    Ok(Output { status, stdout: stdout?, stderr })
}

fn read_capped_blocking(pipe: Option<impl io::Read>, limit: u64) -> io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else { return Ok(Vec::new()) };
    let kept = crate::prefix(&mut pipe, limit)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3";

    #[tokio::test]
    async fn a_program_that_prints_much_ends_and_little_is_kept() {
        let both = [
            output(tokio::process::Command::new("sh").args(["-c", SCRIPT]), b"", 10).await.unwrap(),
            output_blocking(std::process::Command::new("sh").args(["-c", SCRIPT]), b"", 10).unwrap(),
        ];
        for output in both {
            assert_eq!((output.stdout.len(), output.stderr.len(), output.status.code()), (10, 10, Some(3)));
        }
        let echoed = output_blocking(&mut std::process::Command::new("cat"), b"said", 10).unwrap();
        assert_eq!(echoed.stdout, b"said");
    }
}
