use serde_json::json;

use super::*;
use ::plugins::dra::Device;

fn claim(uid: &str, drivers: &[&str]) -> PreparedClaim {
    let results: Vec<_> =
        drivers.iter().map(|driver| json!({"request": "r", "driver": driver, "pool": "p", "device": "d"})).collect();
    let claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": uid}, "spec": {},
        "status": {"allocation": {"devices": {"results": results}}}});
    state::wanted(&serde_json::from_value(claim).unwrap()).unwrap()
}

fn device(requests: &[&str], cdi: &[&str]) -> Device {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_string()).collect();
    Device {
        request_names: texts(requests),
        pool_name: "p".into(),
        device_name: "d".into(),
        cdi_device_ids: texts(cdi),
        share_id: None,
    }
}

#[test]
fn a_claim_is_prepared_once_and_taken_back_after_its_last_pod() {
    let mut state = State::default();
    assert!(!state.enter(claim("u", &["d"]), "one").unwrap().is_prepared);
    state.set_devices("u", "d", vec![PreparedDevice::default()]);
    state.finish(&["u"]);
    assert!(state.enter(claim("u", &["d"]), "two").unwrap().is_prepared);
    let replaced = state.enter(claim("other", &["d"]), "three").unwrap_err();
    assert!(replaced.to_string().contains("different UID u still exists"), "{replaced}");
    assert!(state.leave("one").is_empty(), "two uses it yet");
    assert!(!state.uses("one") && state.uses("two"));
    assert_eq!(state.leave("two").len(), 1);
    assert_eq!(
        state.enter(claim("u", &["d"]), "three").unwrap_err().to_string(),
        "ResourceClaim c is being unprepared"
    );
    assert_eq!(state.leave("two").len(), 1, "what failed is due again");
    state.remove(&["u"]);
    assert!(state.users().is_empty());
    assert!(!state.enter(claim("u", &["d"]), "three").unwrap().is_prepared);
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(state::FILE);
    assert_eq!(state::read(&file).unwrap(), State::default());
    let mut state = State::default();
    state.enter(claim("u", &["a", "b"]), "pod").unwrap();
    state.set_devices(
        "u",
        "a",
        vec![PreparedDevice { cdi_device_ids: vec!["v/c=d".into()], ..PreparedDevice::default() }],
    );
    state::write(&file, &state).unwrap();
    assert_eq!(state::read(&file).unwrap(), state);
    std::fs::write(&file, "{").unwrap();
    state::read(&file).unwrap_err();
}

#[test]
fn a_container_gets_the_devices_of_the_request_that_it_names() {
    let of = |requests: &[&str], request: Option<&str>| {
        let answer = NodePrepareResourceResponse { devices: vec![device(requests, &[])], error: String::new() };
        read(&claim("u", &["d"]), &answer).unwrap()[0].is_for(request)
    };
    assert!(of(&[], Some("r")) && of(&["r"], None) && of(&["r"], Some("")) && of(&["r"], Some("r")));
    assert!(of(&["r/large"], Some("r")) && of(&["s", "r"], Some("r")));
    assert!(!of(&["s"], Some("r")) && !of(&["r"], Some("r/large")));
}

#[test]
fn a_container_has_no_devices_before_they_are_prepared() {
    let pod = json!({"metadata": {"name": "p", "namespace": "ns"},
        "spec": {"containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let container = |claims| -> Container {
        serde_json::from_value(json!({"name": "c", "resources": {"claims": claims}})).unwrap()
    };
    let (own, other) = (container(json!([{"name": "gpu", "request": "r"}])), container(json!([])));
    let mut state = State::default();
    state.enter(claim("u", &["d"]), "pod").unwrap();
    let told = state.of_container(&pod, &own).unwrap_err().to_string();
    assert_eq!(told, "unable to get claim info for claim gpu");
    let device = |request: &str| PreparedDevice {
        request_names: vec![request.into()],
        device_name: request.into(),
        ..PreparedDevice::default()
    };
    state.set_devices("u", "d", vec![device("r"), device("s")]);
    state.finish(&["u"]);
    let devices = state.of_container(&pod, &own).unwrap().remove(0).1;
    assert_eq!(devices.iter().map(|(_, device)| device.device_name.as_str()).collect::<Vec<_>>(), ["r"]);
    assert!(state.of_container(&pod, &other).unwrap().is_empty());
}

#[test]
fn drivers_that_lie_are_told() {
    let own = claim("u", &["d"]);
    let claims = [&own];
    let unknown = asked("NodePrepareResources", &claims, "v").unwrap_err();
    assert_eq!(unknown.to_string(), "NodePrepareResources: returned result for unknown claim UID v");
    let refusal = refused("NodePrepareResources", &own, "no power").unwrap_err();
    assert_eq!(refusal.to_string(), "NodePrepareResources: failed for ResourceClaim c: no power");
    assert_eq!(all_answered("X", 2, 1).unwrap_err().to_string(), "X: skipped 1 ResourceClaims");
    let answer = |cdi: &str| NodePrepareResourceResponse { devices: vec![device(&[], &[cdi])], error: String::new() };
    assert!(read(&own, &answer("vendor.com/class=device")).is_ok());
    let told = read(&own, &answer("../etc/passwd")).unwrap_err().to_string();
    assert!(told.contains("is no CDI device name"), "{told}");
    let long = "x".repeat(MAX_RESPONSE_BYTES);
    let told = read(&own, &answer(&format!("vendor.com/class={long}"))).unwrap_err().to_string();
    assert!(told.contains("the most is"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_is_waited_for_so_long_and_no_longer() {
    let never = std::future::pending::<Result<tonic::Response<()>, tonic::Status>>();
    let told = call("NodePrepareResources", never).await.unwrap_err().to_string();
    assert_eq!(told, "NodePrepareResources: no answer within 45s");
}
