//! Tools for files.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Done;
use crate::error::Error;
use crate::input::{MAX_LINE_BYTES, line};

/// The flags (letters of words that begin with `-`, all of which are known) and the rest.
fn flags<'a>(arguments: &'a [String], known: &str) -> Result<(String, Vec<&'a str>), Error> {
    let (mut flags, mut rest, mut is_over) = (String::new(), Vec::new(), false);
    for word in arguments {
        match word.strip_prefix('-') {
            Some("-") if !is_over => is_over = true,
            Some(letters) if !is_over && !letters.is_empty() => {
                if let Some(other) = letters.chars().find(|letter| !known.contains(*letter)) {
                    return Err(Error::arguments(format!("the flag -{other} isn't known; known are: {known}")));
                }
                flags.push_str(letters);
            }
            _ => rest.push(word.as_str()),
        }
    }
    Ok((flags, rest))
}

fn of(path: &str) -> impl FnOnce(std::io::Error) -> Error {
    Error::on(path.to_string())
}

/// Hands each file to `work`, or the input if there is none.
fn each(
    paths: &[&str],
    input: &mut dyn BufRead,
    mut work: impl FnMut(&str, &mut dyn BufRead) -> std::io::Result<()>,
) -> Result<(), Error> {
    if paths.is_empty() {
        return work("", input).map_err(Error::from);
    }
    for path in paths {
        if *path == "-" {
            work("-", input)?;
        } else {
            let file = File::open(path).map_err(of(path))?;
            work(path, &mut BufReader::new(file)).map_err(of(path))?;
        }
    }
    Ok(())
}

pub fn cat(arguments: &[String], input: &mut dyn BufRead, output: &mut dyn Write) -> Done {
    let (_, paths) = flags(arguments, "")?;
    each(&paths, input, |_, from| std::io::copy(from, output).map(drop))?;
    Ok(0)
}

pub fn grep(arguments: &[String], input: &mut dyn BufRead, output: &mut dyn Write) -> Done {
    let (flags, rest) = flags(arguments, "vicqF")?;
    let Some((pattern, paths)) = rest.split_first() else {
        return Err(Error::arguments("usage: grep [-vicqF] TEXT [FILE…]; TEXT is plain, no expression"));
    };
    let is = |flag| flags.contains(flag);
    let fold = |text: &str| if is('i') { text.to_lowercase() } else { text.to_string() };
    let (wanted, mut found) = (fold(pattern), 0_u64);
    each(paths, input, |path, from| {
        while let Some(bytes) = line(from, MAX_LINE_BYTES)? {
            if fold(&String::from_utf8_lossy(&bytes)).contains(&wanted) == is('v') {
                continue;
            }
            found = found.saturating_add(1);
            if is('q') || is('c') {
                continue;
            }
            if paths.len() > 1 {
                write!(output, "{path}:")?;
            }
            output.write_all(&[&bytes[..], b"\n"].concat())?;
        }
        Ok(())
    })?;
    if is('c') {
        writeln!(output, "{found}")?;
    }
    Ok(u8::from(found == 0))
}

pub fn head(arguments: &[String], input: &mut dyn BufRead, output: &mut dyn Write) -> Done {
    let (count, paths) = match arguments {
        [flag, count, rest @ ..] if flag == "-n" => (count.as_str(), rest),
        [flag, rest @ ..] if flag.starts_with('-') && flag.len() > 1 => {
            (flag.trim_start_matches('-').trim_start_matches('n'), rest)
        }
        rest => ("10", rest),
    };
    let count: u64 = count.parse().map_err(|_| Error::arguments(format!("{count:?} is no number of lines")))?;
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    each(&paths, input, |_, from| {
        for _ in 0..count {
            let Some(bytes) = line(from, MAX_LINE_BYTES)? else { break };
            output.write_all(&[&bytes[..], b"\n"].concat())?;
        }
        Ok(())
    })?;
    Ok(0)
}

pub fn wc(arguments: &[String], input: &mut dyn BufRead, output: &mut dyn Write) -> Done {
    let (flags, paths) = flags(arguments, "lwc")?;
    let wanted = if flags.is_empty() { "lwc" } else { flags.as_str() };
    each(&paths, input, |path, from| {
        let (mut lines, mut words, mut bytes, mut is_in_word) = (0_u64, 0_u64, 0_u64, false);
        loop {
            let piece = from.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            for byte in piece {
                lines += u64::from(*byte == b'\n');
                words += u64::from(!is_in_word && !byte.is_ascii_whitespace());
                is_in_word = !byte.is_ascii_whitespace();
            }
            let length = piece.len();
            bytes = bytes.saturating_add(length as u64);
            from.consume(length);
        }
        let counts = [('l', lines), ('w', words), ('c', bytes)];
        let shown = counts.iter().filter(|(flag, _)| wanted.contains(*flag)).map(|(_, count)| count.to_string());
        let shown = shown.chain((!path.is_empty()).then(|| path.to_string()));
        writeln!(output, "{}", shown.collect::<Vec<_>>().join(" "))
    })?;
    Ok(0)
}

/// `drwxr-xr-x`
fn mode(meta: &Metadata) -> String {
    let kind = match meta.mode() & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o140_000 => 's',
        0o010_000 => 'p',
        0o020_000 => 'c',
        0o060_000 => 'b',
        _ => '-',
    };
    let bits = (0..9).map(|bit| if meta.mode() & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] });
    std::iter::once(kind).chain(bits).collect()
}

fn entry(name: &str, path: &Path, is_long: bool, output: &mut dyn Write) -> std::io::Result<()> {
    // Names come from others, who may want to write to this terminal.
    let shown: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if !is_long {
        return writeln!(output, "{shown}");
    }
    let meta = path.symlink_metadata()?;
    let target = std::fs::read_link(path).map(|target| format!(" -> {}", target.display())).unwrap_or_default();
    let (user, group, size) = (meta.uid(), meta.gid(), meta.len());
    writeln!(output, "{} {:>3} {user:>6} {group:>6} {size:>10} {shown}{target}", mode(&meta), meta.nlink())
}

pub fn ls(arguments: &[String], output: &mut dyn Write) -> Done {
    let (flags, mut paths) = flags(arguments, "la1Ad")?;
    let (is_long, is_all) = (flags.contains('l'), flags.contains(['a', 'A']));
    if paths.is_empty() {
        paths.push(".");
    }
    for path in &paths {
        let place = Path::new(path);
        let meta = place.symlink_metadata().map_err(of(path))?;
        if flags.contains('d') || !(meta.is_dir() || (meta.is_symlink() && !is_long && place.is_dir())) {
            entry(path, place, is_long, output).map_err(of(path))?;
            continue;
        }
        if paths.len() > 1 {
            writeln!(output, "{path}:")?;
        }
        let found = std::fs::read_dir(place).map_err(of(path))?;
        let mut names =
            found.map(|found| found.map(|found| found.file_name())).collect::<Result<Vec<_>, _>>().map_err(of(path))?;
        names.sort();
        for name in names {
            let shown = name.to_string_lossy();
            if is_all || !shown.starts_with('.') {
                entry(&shown, &place.join(&name), is_long, output).map_err(of(path))?;
            }
        }
    }
    Ok(0)
}

pub fn stat(arguments: &[String], output: &mut dyn Write) -> Done {
    for path in arguments {
        entry(path, Path::new(path), true, output).map_err(of(path))?;
    }
    Ok(0)
}

pub fn mkdir(arguments: &[String]) -> Done {
    let (flags, paths) = flags(arguments, "p")?;
    for path in paths {
        std::fs::DirBuilder::new().recursive(flags.contains('p')).create(path).map_err(of(path))?;
    }
    Ok(0)
}

pub fn rm(arguments: &[String]) -> Done {
    let (flags, paths) = flags(arguments, "rRf")?;
    for path in paths {
        let is_folder = Path::new(path).symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = match (is_folder, flags.contains(['r', 'R'])) {
            (true, true) => std::fs::remove_dir_all(path),
            (true, false) => return Err(Error::arguments(format!("{path} is a folder: rm -r removes it"))),
            (false, _) => std::fs::remove_file(path),
        };
        match removed {
            Err(error) if flags.contains('f') && error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(of(path))?,
        }
    }
    Ok(0)
}

pub fn touch(arguments: &[String]) -> Done {
    for path in arguments {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(of(path))?;
        file.set_modified(std::time::SystemTime::now()).map_err(of(path))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;

    #[test]
    fn files_are_made_shown_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        told(&["mkdir", "-p", &path("a/b")], b"").unwrap();
        told(&["touch", &path("a/file"), &path("a/.hidden")], b"").unwrap();
        assert_eq!(told(&["ls", &path("a")], b"").unwrap().1, "b\nfile\n");
        assert_eq!(told(&["ls", "-a", &path("a")], b"").unwrap().1, ".hidden\nb\nfile\n");
        let long = told(&["ls", "-l", &path("a")], b"").unwrap().1;
        assert!(long.starts_with("drwx") && long.lines().nth(1).unwrap().starts_with("-rw"), "{long}");
        assert!(told(&["rm", &path("a")], b"").is_err() && told(&["rm", &path("none")], b"").is_err());
        told(&["rm", "-rf", &path("a"), &path("none")], b"").unwrap();
        assert!(told(&["ls", &path("a")], b"").is_err() && told(&["ls", "-z"], b"").is_err());
    }

    #[test]
    fn lines_are_counted_cut_and_found() {
        let text = b"one two\nThree\nfour\n";
        assert_eq!(told(&["wc"], text).unwrap().1, "3 4 19\n");
        assert_eq!(told(&["wc", "-l"], text).unwrap().1, "3\n");
        assert_eq!(told(&["head", "-n", "1"], text).unwrap().1, "one two\n");
        assert_eq!(told(&["head", "-2"], text).unwrap().1, "one two\nThree\n");
        assert_eq!(told(&["grep", "-i", "three"], text).unwrap(), (0, "Three\n".into()));
        assert_eq!(told(&["grep", "-c", "-v", "o"], text).unwrap(), (0, "1\n".into()));
        assert_eq!(told(&["grep", "five"], text).unwrap(), (1, String::new()));
        assert_eq!(told(&["cat"], text).unwrap().1.as_bytes(), text);
    }
}
