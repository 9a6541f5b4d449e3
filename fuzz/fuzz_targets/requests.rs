//! What a URL and the headers of a request ask of the API.
#![no_main]

use apiserver::readers::{Continue, Query, negotiate, resource_path, verb};
use http::{Method, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, &str)| {
    let (uri, accept) = parts;
    let _ = Continue::decode(accept);
    let _ = negotiate(accept, Some(api::kinds::PODS), false);
    let _ = negotiate(accept, None, true);
    let Ok(uri) = uri.parse::<Uri>() else { return };
    let query = Query::parse(&uri);
    let _ = (query.number::<usize>("limit"), query.number::<u64>("resourceVersion"), query.filter(api::kinds::PODS, "n"));
    let _ = api::pod_logs::LogOptions::read("p", query.pairs());
    let Some(path) = resource_path(uri.path()) else { return };
    for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let _ = verb(&method, &path, &query);
    }
});
