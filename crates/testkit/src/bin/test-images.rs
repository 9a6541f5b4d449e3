//! Writes the test images into a folder: `test-images FOLDER`.

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| anyhow::anyhow!("usage: test-images FOLDER"))?;
    testkit::images::build(folder.as_ref())
}
