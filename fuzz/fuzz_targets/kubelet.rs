//! What clients of the kubelet and authors of pods send: SPDY sessions, messages of WebSockets, variables that name one another.
//! The files are taken as they are, so that not all of the kubelet is built.
#![no_main]

#[allow(dead_code)]
#[path = "../../crates/kubelet/src/server/dialect.rs"]
mod dialect;
#[allow(dead_code)]
#[path = "../../crates/kubelet/src/env/expansion.rs"]
mod expansion;
#[allow(dead_code)]
#[path = "../../crates/kubelet/src/server/spdy.rs"]
mod spdy;

use libfuzzer_sys::fuzz_target;

fn session(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let served = runtime.block_on(spdy::serve(bytes, tokio::io::sink(), |_| ()));
    let _ = served;
}

fn variables(text: &str) {
    let mut all = expansion::Variables::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        if let Ok(value) = expansion::expand(value, all.known()) {
            let _ = all.insert(name.into(), value);
        }
    }
    let size: usize = all.known().iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(size <= 4 << 20, "{size}");
    let list: Vec<String> = text.lines().map(String::from).collect();
    let _ = expansion::expand_all(&list, all.known());
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 3 {
        0 => session(rest),
        1 => {
            for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "base64.channel.k8s.io", ""] {
                let _ = dialect::Dialect::of(protocol).read(&bytes::Bytes::copy_from_slice(rest));
            }
        }
        _ => variables(&String::from_utf8_lossy(rest)),
    }
});
