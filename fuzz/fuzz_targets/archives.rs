//! Archives of images (OCI layouts, `docker save`), made of what stands in them.
#![no_main]

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use runtime::ImageStore;
use runtime::image::{Registries, normalize};

fn archive(files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).ok()?;
    }
    builder.into_inner().ok()
}

fuzz_target!(|parts: (&str, &[u8], &[u8], &[u8])| {
    let (name, manifest, configuration, layer) = parts;
    if let Ok(whole) = normalize(name) {
        assert_eq!(normalize(&whole).ok(), Some(whole));
    }
    let Ok(folder) = tempfile::tempdir() else { return };
    let Ok(store) = ImageStore::open(&folder.path().join("images"), Registries::default()) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    for file in ["manifest.json", "index.json"] {
        let Some(bytes) = archive(&[(file, manifest), ("config.json", configuration), ("layer.tar", layer)]) else { continue };
        let path = folder.path().join("archive");
        if std::fs::File::create(&path).and_then(|mut file| file.write_all(&bytes)).is_err() {
            continue;
        }
        for image in runtime.block_on(store.load(&path)).unwrap_or_default() {
            for layer in store.layer_paths(&image) {
                assert!(layer.starts_with(store.folder()) && !layer.to_string_lossy().contains(".."));
            }
        }
    }
    let beside = std::fs::read_dir(folder.path()).map_or(0, |entries| entries.count());
    assert!(beside <= 2, "something was written beside the store");
});
