//! Bodies in protobuf; what is read must be written and read again as the same.
#![no_main]

use api::{KINDS, OLDER, protobuf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = api::decode::json(data);
    let framed = [b"k8s\0", data].concat();
    let Ok(read) = protobuf::decode(&framed) else { return };
    let is_it = |kind: &&'static api::Kind| read["kind"] == kind.kind && read["apiVersion"] == kind.api_version().as_str();
    let Some(kind) = KINDS.iter().chain(OLDER).find(is_it).filter(|kind| protobuf::speaks(kind)) else { return };
    let (message, whole) = protobuf::object_message(kind, &read);
    if whole {
        let again = protobuf::decode(&protobuf::object(kind, &message));
        let twice = again.as_ref().map(|again| protobuf::object_message(kind, again).0);
        assert_eq!(twice.ok(), Some(message), "{read} {again:?}");
    }
});
