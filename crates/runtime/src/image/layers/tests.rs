use super::*;
use crate::image::Registries;

fn tar_of(paths: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for path in paths {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        // Written by hand, as the builder refuses what a hostile archive holds.
        let name = header.as_gnu_mut().unwrap();
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[test]
fn layers_are_unpacked_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), Registries::default()).unwrap();
    let good = tar_of(&["a", "b/.wh.gone"]);
    let id = digest(&good);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &good).unwrap();
        encoder.finish().unwrap()
    };
    store.unpack(&id, std::io::Cursor::new(gzip)).unwrap();
    assert!(store.layer_path(&id).join("a").exists());
    use std::os::unix::fs::FileTypeExt as _;
    assert!(store.layer_path(&id).join("b/gone").metadata().unwrap().file_type().is_char_device());

    // What a layer hides and brings itself is there, whichever comes first.
    let both = tar_of(&["c", ".wh.c", ".wh.d", "d", "e/f", ".wh.e", ".wh.g", "g/h"]);
    let id = digest(&both);
    store.unpack(&id, std::io::Cursor::new(both)).unwrap();
    let layer = store.layer_path(&id);
    assert!(["c", "d", "e/f", "g/h"].iter().all(|path| layer.join(path).is_file()));
    let opaque = |path: &str| xattr::get(layer.join(path), "trusted.overlay.opaque").unwrap();
    assert!(opaque("e").is_some() && opaque("g").is_some());

    let wrong = format!("sha256:{}", "0".repeat(64));
    assert!(store.unpack(&wrong, std::io::Cursor::new(good)).is_err());
    assert!(!store.layer_path(&wrong).exists());

    for paths in [&["../escaped"][..], &["b/.wh..."], &[".wh."], &["b/.wh.."], &["b/c", "b/../../escaped"]] {
        let hostile = tar_of(paths);
        let id = digest(&hostile);
        assert!(store.unpack(&id, std::io::Cursor::new(hostile)).is_err(), "{paths:?}");
        assert!(!dir.path().join("escaped").exists() && !store.layer_path(&id).exists(), "{paths:?}");
    }
}

/// A GNU or PAX header in front of an entry, whose content is so large.
fn extension(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

#[test]
fn what_headers_hold_is_bound_before_it_is_read() {
    use tar::EntryType;
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader] {
        let size = 1 << 40;
        let mut begin = Vec::from(*extension(kind, size).as_bytes());
        let read = Rc::new(Cell::new(0u64));
        let counted = {
            struct Counted(Rc<Cell<u64>>);
            impl Read for Counted {
                fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                    self.0.set(self.0.get() + buffer.len() as u64);
                    buffer.fill(b'A');
                    Ok(buffer.len())
                }
            }
            Counted(read.clone())
        };
        begin.truncate(512);
        let folder = tempfile::tempdir().unwrap();
        let refused = extract(io::Cursor::new(begin).chain(counted.take(size)), folder.path(), Ownership::Theirs);
        let why = with_cause(&refused.unwrap_err());
        // The library hands on a global header as it does a file.
        let bound = if kind == EntryType::XGlobalHeader { "more than 64 GiB" } else { "larger than 1 MiB" };
        assert!(why.contains(bound), "{kind:?}: {why}");
        assert!(read.get() < 4 << 20, "{kind:?}: {} bytes were read", read.get());
    }
}

#[test]
fn ordinary_extensions_are_taken() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/file", vec!["folder"; 100].join("/"));
    let mut header = tar::Header::new_gnu();
    header.set_size(3 << 20);
    header.set_mode(0o644);
    builder.append_pax_extensions([("comment", vec![b'x'; 100 << 10].as_slice())]).unwrap();
    builder.append_data(&mut header, &long, io::repeat(7).take(3 << 20)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = builder.into_inner().unwrap();
    assert_eq!(extract(io::Cursor::new(archive), folder.path(), Ownership::Ours).unwrap(), []);
    assert_eq!(std::fs::metadata(folder.path().join(long)).unwrap().len(), 3 << 20);
}

#[test]
fn attributes_of_the_machine_are_no_images_to_set() {
    let mut builder = tar::Builder::new(Vec::new());
    let attributes: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/other"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.kept", b"yes"),
        ("SCHILY.xattr.trusted.any", b"1"),
    ];
    builder.append_pax_extensions(attributes).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, "b/file", &b"x"[..]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    extract(io::Cursor::new(builder.into_inner().unwrap()), folder.path(), Ownership::Theirs).unwrap();
    let file = folder.path().join("b/file");
    assert_eq!(xattr::get(&file, "user.kept").unwrap().as_deref(), Some(&b"yes"[..]));
    let names: Vec<String> = xattr::list(&file).unwrap().map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|name| name.starts_with("trusted.")), "{names:?}");
}

#[test]
fn paths_and_files_that_no_system_call_takes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |archive: Vec<u8>| {
        let refused = extract(io::Cursor::new(archive), folder.path(), Ownership::Ours);
        with_cause(&refused.unwrap_err())
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    builder.append_data(&mut header, vec!["d"; 3000].join("/"), io::empty()).unwrap();
    assert!(refused(builder.into_inner().unwrap()).contains("longer than 4095 bytes"));
    // A size that is more than all that a layer may have, with nothing behind it.
    let mut header = tar::Header::new_gnu();
    header.set_path("file").unwrap();
    header.set_size(u64::MAX >> 1);
    header.set_cksum();
    assert!(refused(header.as_bytes().to_vec()).contains("more than 64 GiB"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
