use super::capabilities::CAPABILITIES;
use super::*;

#[test]
fn capabilities_are_added_and_dropped() {
    let names = |add: &[&str], drop: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|c| (*c).to_string()).collect();
        capabilities(&ContainerConfig {
            add_capabilities: own(add),
            drop_capabilities: own(drop),
            ..Default::default()
        })
    };
    assert!(names(&[], &[]).contains(&"CAP_CHOWN".to_string()));
    assert!(!names(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_string()));
    assert_eq!(names(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
    assert_eq!(names(&["cap_net_admin"], &["all"]), ["CAP_NET_ADMIN"]);
    assert!(names(&[], &["all"]).is_empty() && names(&["ALL"], &["ALL"]).is_empty());
    assert!(!names(&["All"], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_string()));
    assert!(names(&["all"], &[]).len() > CAPABILITIES.len());
    assert!(!names(&["CHOWN"], &["chown"]).contains(&"CAP_CHOWN".to_string()));
    assert!(["ALL", "all", "CAP_SYS_ADMIN", "sys_admin"].into_iter().all(is_capability));
    assert!(!["", "CAP_", "CAP_CAP_CHOWN", "SYS_ADMINS"].into_iter().any(is_capability));
    assert!(!names(&[], &[]).contains(&"CAP_SYS_ADMIN".to_string()));
}

#[test]
fn mounts_are_sorted_so_that_none_is_covered() {
    let mount = |target: &str| Mount {
        source: "/".into(),
        target: target.into(),
        read_only: false,
        recursive: false,
        propagation: "rprivate",
        relabel: false,
        options: Vec::new(),
    };
    let config = ContainerConfig { mounts: vec![mount("/a/b"), mount("/a")], ..Default::default() };
    let list = mounts(&config, Path::new("/shm"));
    let position = |t: &str| list.iter().position(|m| m["destination"] == t).unwrap();
    assert!(position("/a") < position("/a/b"));
}
