//! DNS messages: read, answered from a zone, and written again.
#![no_main]

use std::sync::{Arc, OnceLock};

use dns::zone::{ZoneAnswer, Zone, response_to};
use hickory_proto::op::Message;
use k8s_openapi::api::core::v1::{Namespace, Service};
use libfuzzer_sys::fuzz_target;

fn zone() -> &'static Zone {
    static ZONE: OnceLock<Zone> = OnceLock::new();
    ZONE.get_or_init(|| {
        let service = serde_json::json!({"metadata": {"name": "a", "namespace": "b"},
            "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd43::7"], "ports": [{"name": "c", "port": 80}]}});
        let service: Service = serde_json::from_value(service).unwrap_or_default();
        let namespace: Namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": "b"}})).unwrap_or_default();
        Zone::build("d.e", "10.43.0.10".parse().ok(), &[Arc::new(service)], &[], &[Arc::new(namespace)])
    })
}

fuzz_target!(|packet: &[u8]| {
    let Ok(question) = Message::from_vec(packet) else { return };
    let mut answer = response_to(&question);
    for query in &question.queries {
        if let ZoneAnswer::Records(records) = zone().answer(query.name(), query.query_type()) {
            answer.add_additionals(zone().additional_records(&records));
            answer.add_answers(records);
        }
        let _ = zone().search(query.name(), query.query_type(), "b");
    }
    let _ = answer.to_vec();
});
