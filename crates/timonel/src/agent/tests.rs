use super::*;

#[test]
fn addresses_within_the_clusters_ranges_are_told() {
    let (pods, services) = ("10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap());
    let chosen = |ip: &str| addresses_for(&pods, &services, "n", &[ip.parse().unwrap()]);
    assert!(chosen("10.42.7.7").unwrap_err().to_string().contains("--cluster-cidr 10.42.0.0/16"));
    assert!(chosen("10.43.7.7").unwrap_err().to_string().contains("--service-cidr 10.43.0.0/16"));
    assert_eq!(chosen("10.44.0.1").unwrap(), ["10.44.0.1".parse::<IpAddr>().unwrap()]);
}
