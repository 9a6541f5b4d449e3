//! Tools for names and for HTTP.

use std::io::{Read as _, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Done;
use crate::dns::Resolver;
use crate::error::Error;

const PATIENCE: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The addresses of a name; of addresses their names.
pub fn nslookup(arguments: &[String], output: &mut dyn Write) -> Done {
    let [name] = arguments else { return Err(Error::arguments("usage: nslookup NAME")) };
    let resolver = Resolver::of_pod()?;
    for server in &resolver.servers {
        writeln!(output, "Server:    {server}")?;
    }
    if let Ok(address) = name.parse::<IpAddr>() {
        let names = resolver.names(address)?;
        for own in &names {
            writeln!(output, "Name:      {own}\nAddress:   {address}")?;
        }
        return if names.is_empty() { Err(Error::answer(format!("no name leads to {name}"))) } else { Ok(0) };
    }
    let (full, addresses) = resolver.addresses(name)?;
    writeln!(output, "Name:      {full}")?;
    for address in addresses {
        writeln!(output, "Address:   {address}")?;
    }
    Ok(0)
}

/// The host, the port and the rest of a URL.
fn parts(url: &str) -> Result<(String, u16, String), Error> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(Error::arguments(format!("{scheme} isn't known: only http is"))),
        None => url,
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port =
        port.map_or(Ok(80), str::parse).map_err(|_| Error::arguments(format!("{authority:?} has no valid port")))?;
    if host.is_empty() || url.contains(|c: char| c.is_control() || c == ' ') {
        return Err(Error::arguments(format!("{url:?} is no URL")));
    }
    Ok((host.into(), port, path.into()))
}

/// Writes what an HTTP server answers. Fails, like `curl --fail`, on codes from 400 on.
pub fn get(arguments: &[String], output: &mut dyn Write) -> Done {
    let [url] = arguments else { return Err(Error::arguments("usage: get URL")) };
    let (host, port, path) = parts(url)?;
    let addresses = if host == "localhost" {
        vec![IpAddr::from([127, 0, 0, 1])]
    } else {
        Resolver::of_pod().and_then(|resolver| resolver.addresses(&host)).map(|(_, addresses)| addresses)?
    };
    let mut connected = Err(Error::answer("it has no address"));
    for address in addresses {
        connected = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE).map_err(Error::from);
        if connected.is_ok() {
            break;
        }
    }
    let mut stream = connected.map_err(|error| Error::answer(format!("{host} port {port}: {error}")))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // By HTTP/1.0 no server sends its answer in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: text/plain, */*\r\n\r\n");
    // In one piece: a server may answer and close after the first one that it reads.
    stream.write_all(request.as_bytes())?;
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    let (code, begin) = loop {
        let count = stream.read(&mut buffer)?;
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break (status(&head)?, end + 4);
        }
        if count == 0 || head.len() > MAX_HEAD_BYTES {
            return Err(Error::answer(format!("{host} port {port} doesn't answer in HTTP")));
        }
    };
    output.write_all(&head[begin..])?;
    std::io::copy(&mut stream, output)?;
    if code >= 400 { Err(Error::answer(format!("{url} is answered with the code {code}"))) } else { Ok(0) }
}

fn status(head: &[u8]) -> Result<u16, Error> {
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    code.ok_or_else(|| Error::answer(format!("{line:?} is no answer in HTTP")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let of = |url| parts(url).map(|(host, port, path)| format!("{host} {port} {path}"));
        assert_eq!(of("http://web").unwrap(), "web 80 /");
        assert_eq!(of("web-0.hello:8080/peers").unwrap(), "web-0.hello 8080 /peers");
        assert_eq!(of("http://[2001:db8::1]:81/a").unwrap(), "2001:db8::1 81 /a");
        for bad in ["https://web", "http://", "web:port", "web/\r\nHost: a", ""] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_are_written_and_failures_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a", listener.local_addr().unwrap());
        let answers = ["HTTP/1.1 200 OK\r\n\r\nhere", "HTTP/1.1 404 Not Found\r\n\r\n", "SSH-2.0\r\n\r\n"];
        let server = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert_eq!(told(&["get", &url], b"").unwrap().1, "here");
        assert!(told(&["get", &url], b"").unwrap_err().to_string().contains("404"));
        assert!(told(&["get", &url], b"").unwrap_err().to_string().contains("no answer in HTTP"));
        server.join().unwrap();
    }
}
