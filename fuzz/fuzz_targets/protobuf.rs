//! Bodies in protobuf; what is read must be written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = api::decode::json(data);
    let framed = [b"k8s\0", data].concat();
    let _ = api::protobuf::decode(&framed);
});
