//! Small commands that work on this machine's files.

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

/// Waits until the agent has loaded an archive, and says what came of it.
fn imported(folder: &Path, name: &str, archive: &Path) -> anyhow::Result<()> {
    loop {
        if let Some(outcome) = crate::runtimes::outcome(folder, name)? {
            let images = outcome.images.map_err(anyhow::Error::msg)?;
            eprintln!("{} is imported: {}", archive.display(), images.join(", "));
            return Ok(());
        }
        if !crate::runtimes::is_loading(folder) {
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
                std::fs::copy(&archive, &partial).with_context(|| format!("{} can't be read", archive.display()))?;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "who imports an archive has it still, and does so again"
                )]
                std::fs::rename(&partial, folder.join(name))?;
                imported(&folder, &name.to_string_lossy(), &archive)?;
            }
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
