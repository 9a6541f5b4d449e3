//! SPDY sessions that clients of the kubelet open.
#![no_main]

use kubelet::readers::spdy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let _ = runtime.block_on(spdy::serve(bytes, tokio::io::sink(), |_| ()));
});
