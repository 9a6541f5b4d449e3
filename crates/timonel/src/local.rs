//! Small commands that work on this machine's files.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{DataArgs, ImageCommand};

pub fn print_token(args: &DataArgs) -> anyhow::Result<ExitCode> {
    let path = args.data_dir.join("server/node-token");
    let token = bounded::text(&path, bounded::MAX_OWN_FILE_BYTES)
        .with_context(|| format!("{} can't be read: is this the server, and are you root?", path.display()))?;
    print!("{token}");
    Ok(ExitCode::SUCCESS)
}

/// Writes over the last line of a terminal how far an import has come; nothing elsewhere.
fn progress(text: &str) {
    let mut terminal = std::io::stderr().lock();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K{text}");
        let _ = terminal.flush();
    }
}

/// Copies a file, and says how far that has come.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    const STEP: u64 = 16 << 20;
    let mut source = std::fs::File::open(from)?;
    let mut target = std::fs::File::create(to)?;
    let (size, mut done) = (source.metadata()?.len(), 0u64);
    loop {
        // By the kernel, where both are files.
        let copied = std::io::copy(&mut (&mut source).take(STEP), &mut target)?;
        if copied == 0 {
            return Ok(());
        }
        done = done.saturating_add(copied);
        progress(&format!("copying {}: {} of {} MB", from.display(), done / 1_000_000, size.max(done) / 1_000_000));
    }
}

/// Waits until the agent has loaded an archive, and says what came of it.
fn imported(folder: &Path, name: &str, archive: &Path) -> anyhow::Result<()> {
    progress(&format!("unpacking {}", archive.display()));
    loop {
        if let Some(outcome) = crate::runtimes::outcome(folder, name)? {
            progress("");
            let images = outcome.images.map_err(anyhow::Error::msg)?;
            eprintln!("{} is imported: {}", archive.display(), images.join(", "));
            return Ok(());
        }
        if !crate::runtimes::is_loading(folder) {
            progress("");
            eprintln!("{} is copied; its images are there once the agent runs", archive.display());
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

pub fn image(command: ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Import { archives, data } => {
            let folder = data.data_dir.join("agent/images");
            std::fs::create_dir_all(&folder)?;
            for archive in archives {
                let name = archive.file_name().with_context(|| format!("{} is no file", archive.display()))?;
                // Beside its place first, so that the agent never sees half of it.
                let partial = data.data_dir.join("agent").join(name);
                copy(&archive, &partial).with_context(|| format!("{} can't be copied", archive.display()))?;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "who imports an archive has it still, and does so again"
                )]
                std::fs::rename(&partial, folder.join(name))?;
                imported(&folder, &name.to_string_lossy(), &archive)?;
            }
        }
        ImageCommand::BuiltIn => {
            anyhow::ensure!(!std::io::stdout().is_terminal(), "an archive isn't for a terminal: add > FILE");
            crate::runtimes::HELLO.write_archive(std::io::stdout().lock())?;
        }
        ImageCommand::Ls(data) => {
            let text = bounded::bytes(data.data_dir.join("agent/image-store/index.json"), bounded::MAX_OWN_FILE_BYTES)
                .unwrap_or_else(|_| b"{}".to_vec());
            let images: std::collections::BTreeMap<String, runtime::Image> = serde_json::from_slice(&text)?;
            println!("{:60} {:>10}  ID", "IMAGE", "SIZE");
            for image in images.values() {
                for name in image.names.iter().chain(&image.digests) {
                    println!("{name:60} {:>8} K  {}", image.size / 1024, &image.id[..19.min(image.id.len())]);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
