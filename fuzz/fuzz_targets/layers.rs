//! Layers of images, packed or not: whatever they hold, nothing is written beside the folder that they are unpacked to.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let into = folder.path().join("layer");
    if std::fs::create_dir(&into).is_err() {
        return;
    }
    let _ = runtime::image::unpack_layer(Cursor::new(bytes.to_vec()), &into);
    let beside = std::fs::read_dir(folder.path()).map_or(0, |entries| entries.count());
    assert_eq!(beside, 1, "something was written beside the layer");
    assert!(runtime::disk_usage(&into).is_ok());
    assert!(runtime::remove_tree(&into).is_ok());
});
