use super::*;

fn read(path: &Path) -> String {
    bounded::text(path, 4096).unwrap()
}

fn entry(archive: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len().try_into().unwrap());
    header.set_mode(0o644);
    // Names as the library itself wouldn't write them.
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    archive.append(&header, data).unwrap();
}

fn archive(entries: &[(tar::EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        entry(&mut archive, *kind, name, link, data.as_bytes());
    }
    archive.into_inner().unwrap()
}

#[test]
fn what_is_packed_is_unpacked() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = "l".repeat(150);
    fs::create_dir_all(from.path().join("d/empty")).unwrap();
    fs::write(from.path().join("d/a"), "content").unwrap();
    fs::write(from.path().join("d").join(&long), "long").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.path().join("d/link")).unwrap();
    let mut packed = Vec::new();
    write(&from.path().join("d"), "x", &mut packed).unwrap();
    unpack(&packed[..], "x", &to.path().join("t"), "").unwrap();
    assert_eq!(read(&to.path().join("t/a")), "content");
    assert_eq!(read(&to.path().join("t").join(long)), "long");
    assert!(to.path().join("t/empty").is_dir());
    assert!(!to.path().join("t/link").is_symlink());
}

#[test]
fn one_file_is_the_target_itself() {
    let to = tempfile::tempdir().unwrap();
    let packed = archive(&[(tar::EntryType::Regular, "tmp/foo", "", "x")]);
    unpack(&packed[..], "tmp/foo", &to.path().join("bar"), "").unwrap();
    assert_eq!(read(&to.path().join("bar")), "x");
    let error = unpack(&packed[..], "tmp/foo", to.path(), "").unwrap_err().text();
    assert_eq!(error, format!("open {}: is a directory", to.path().display()));
}

#[test]
fn nothing_is_written_outside_of_the_target() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let place = tempfile::tempdir().unwrap();
    let (target, secret) = (place.path().join("t"), place.path().join("secret"));
    fs::write(&secret, "secret").unwrap();
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(place.path(), target.join("there")).unwrap();
    let packed = archive(&[
        (Regular, "x/../../secret", "", "bad"),
        (Regular, "x/there/secret", "", "bad"),
        (Symlink, "x/up", "..", ""),
        (Regular, "x/up/secret2", "", "bad"),
        (Link, "x/hard", "x/there/secret", ""),
        (Link, "x/hard2", "../secret", ""),
        (Char, "x/device", "", ""),
        (Regular, "x//./good", "", "good"),
        (Link, "x/again", "x/good", ""),
    ]);
    unpack(&packed[..], "x", &target, "").unwrap();
    assert_eq!(read(&secret), "secret");
    assert!(!place.path().join("secret2").exists());
    assert_eq!(read(&target.join("good")), "good");
    assert_eq!(read(&target.join("again")), "good");
    for missing in ["hard", "hard2", "device"] {
        assert!(!target.join(missing).exists(), "{missing}");
    }
}

#[test]
fn archives_of_something_else_are_refused() {
    let place = tempfile::tempdir().unwrap();
    for name in ["/etc/passwd", "y/a", "xy", "../x/a"] {
        let packed = archive(&[(tar::EntryType::Regular, name, "", "bad")]);
        let error = unpack(&packed[..], "x", place.path(), "").unwrap_err().text();
        assert_eq!(error, "tar contents corrupted", "{name}");
    }
    let good = archive(&[(tar::EntryType::Regular, "x/a", "", "0123456789")]);
    assert!(unpack(&good[..516], "x", place.path(), "").is_err(), "an archive that breaks off");
}

#[test]
fn long_names_are_bounded() {
    let mut archive = tar::Builder::new(Vec::new());
    entry(&mut archive, tar::EntryType::GNULongName, "././@LongLink", "", &vec![b'a'; 2 << 20]);
    entry(&mut archive, tar::EntryType::Regular, "x", "", b"");
    let packed = archive.into_inner().unwrap();
    let place = tempfile::tempdir().unwrap();
    assert!(unpack(&packed[..], "", place.path(), "").unwrap_err().text().contains("too large"));
}
