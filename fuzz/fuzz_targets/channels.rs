//! Messages of WebSockets that carry channels of bytes, in every dialect; what would be written is read as it was.
#![no_main]

use kubelet::readers::dialect::{Dialect, Event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io", ""] {
        let dialect = Dialect::of(protocol);
        let _ = dialect.read(&bytes::Bytes::copy_from_slice(bytes));
        let written = dialect.write(1, bytes).into_data();
        assert!(matches!(dialect.read(&written), Some(Event::Data(1, data)) if data == bytes));
    }
});
