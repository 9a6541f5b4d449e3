//! Ingresses on real traffic.

mod annotations;

use anyhow::Context as _;
use pki::{Authority, Usage};
use testkit::Cluster;

/// What curl says: the code of the answer, then its body.
pub fn curl(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut words: Vec<String> = ["curl", "-sk", "-m", "5", "-w", "\n%{http_code}"].map(String::from).into();
    words.extend(arguments.iter().map(|a| (*a).to_string()));
    let output = cluster.server.run(&words, "");
    let (body, code) = output.stdout.rsplit_once('\n').unwrap_or(("", "000"));
    format!("{code} {}", body.trim_end())
}

/// A site that tells what it was asked, and for whom.
pub fn site(name: &str) -> String {
    let answer = format!("{name} $request_uri $http_host $http_x_forwarded_proto $http_x_forwarded_for");
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  nginx.conf: |\n    user root;\n    pid /run/nginx.pid;\n    error_log stderr;\n    events {{}}\n    \
         http {{ access_log off; client_max_body_size 0; server {{ listen 80; location / {{ return 200 \"{answer}\\n\"; }} }} }}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: c, image: 'nginx:1.27', command: [/usr/sbin/nginx, -c, /conf/nginx.conf, -g, 'daemon off;'], volumeMounts: [{{name: conf, mountPath: /conf}}]}}]\n  \
         volumes: [{{name: conf, configMap: {{name: {name}}}}}]\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: web, port: 80}}]}}\n"
    )
}

const INGRESSES: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: chat}
spec:
  rules:
  - host: www.letschat.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}
      - {path: /two, pathType: Prefix, backend: {service: {name: two, port: {name: web}}}}
      - {path: /gone, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: rewritten, annotations: {nginx.ingress.kubernetes.io/rewrite-target: /$1, nginx.ingress.kubernetes.io/proxy-body-size: 1k}}
spec:
  rules:
  - http: {paths: [{path: /strip/(.*), pathType: ImplementationSpecific, backend: {service: {name: two, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: secure}
spec:
  tls: [{hosts: [secure.letschat.com], secretName: cert}]
  rules:
  - {host: secure.letschat.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: theirs}
spec:
  ingressClassName: somebody-else
  rules:
  - {host: theirs.letschat.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}]}}
";

#[test]
fn requests_find_their_service_by_host_and_path() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(&[site("one"), site("two")].concat())?;
    cluster.wait_pod("one")?;
    cluster.wait_pod("two")?;
    cluster.apply(INGRESSES)?;
    let address = cluster.server.address();
    let ask =
        |host: &str, path: &str| curl(&cluster, &["-H", &format!("Host: {host}"), &format!("http://{address}{path}")]);
    cluster.eventually("the host is served", || Ok(ask("www.letschat.com", "/x?y=z").starts_with("200")))?;
    assert_eq!(ask("www.letschat.com", "/x?y=z"), format!("200 one /x?y=z www.letschat.com http {address}"));
    assert_eq!(ask("www.letschat.com", "/two/x"), format!("200 two /two/x www.letschat.com http {address}"));
    assert_eq!(ask("any.where", "/strip/a/b"), format!("200 two /a/b any.where http {address}"));
    assert!(ask("www.letschat.com", "/gone").starts_with("503 503: service default/gone:80 has no endpoint"));
    // People hear of what is missing, where they look.
    let told =
        |ingress: &str| cluster.ok(&["get", "events", "--field-selector", &format!("involvedObject.name={ingress}")]);
    cluster
        .eventually("the missing service is told", || Ok(told("chat")?.contains("there is no service default/gone")))?;
    cluster.eventually("the missing certificate is told", || {
        Ok(told("secure")?.contains("secret default/cert can't be served: it isn't there"))
    })?;
    assert!(ask("theirs.letschat.com", "/").starts_with("404"), "another controller's class");
    let spoofed = curl(
        &cluster,
        &["-H", "Host: www.letschat.com", "-H", "X-Forwarded-For: 1.2.3.4", &format!("http://{address}/")],
    );
    assert_eq!(spoofed, format!("200 one / www.letschat.com http {address}"));
    let body = "x".repeat(2000);
    let large = curl(&cluster, &["-H", "Host: any.where", "-d", &body, &format!("http://{address}/strip/")]);
    assert!(large.starts_with("413"), "{large}");
    let chunked =
        ["-H", "Host: any.where", "-H", "Transfer-Encoding: chunked", "-d", &body, &format!("http://{address}/strip/")];
    let large = curl(&cluster, &chunked);
    assert!(large.starts_with("413"), "{large}");

    // HTTPS: first with a certificate of no worth, then with the one that was brought.
    assert!(
        curl(&cluster, &["-o", "/dev/null", "-H", "Host: secure.letschat.com", &format!("http://{address}/")])
            .starts_with("308")
    );
    let resolve = format!("secure.letschat.com:443:{address}");
    let folder = cluster.server.folder().join("tls");
    let authority = Authority::load_or_create(&folder, "ca")?;
    let identity =
        authority.load_or_issue(&folder, "cert", "secure", None, &[Usage::Server], &["secure.letschat.com".into()])?;
    let ca = folder.join("ca.crt").display().to_string();
    let trusting = |options: &[&str]| {
        let mut words: Vec<String> =
            ["curl", "-s", "-m", "5", "--cacert", &ca, "--resolve", &resolve].map(String::from).into();
        words.extend(options.iter().map(|o| (*o).to_string()));
        words.push("https://secure.letschat.com/".into());
        cluster.server.run(&words, "")
    };
    assert!(curl(&cluster, &["--resolve", &resolve, "https://secure.letschat.com/"]).starts_with("200 one"));
    assert_ne!(trusting(&[]).code, 0, "nobody vouches for the fallback");
    let files = ["crt", "key"].map(|kind| folder.join(format!("cert.{kind}")).display().to_string());
    assert!(!identity.key_pem.is_empty());
    cluster.ok(&[
        "create",
        "secret",
        "tls",
        "cert",
        &format!("--cert={}", files[0]),
        &format!("--key={}", files[1]),
    ])?;
    let served = || Ok(trusting(&[]).stdout.contains("one / secure.letschat.com https"));
    cluster.eventually("the certificate is served", served)?;
    // One that nobody can read is told, and the good one stays.
    cluster.ok(&["patch", "secret", "cert", "-p", "{\"data\":{\"tls.crt\":\"bm9uZQ==\"}}"])?;
    cluster.ok(&["annotate", "ingress", "secure", "look=again"])?;
    cluster.eventually("the broken certificate is told", || {
        Ok(told("secure")?.contains("the one before it, or a self-signed certificate, stands for it"))
    })?;
    assert!(served()?);
    let h1 = trusting(&["--http1.1", "-w", "%{http_version}"]);
    let h2 = trusting(&["--http2", "-w", "%{http_version}"]);
    assert!(h1.stdout.ends_with("1.1") && h2.stdout.ends_with('2'), "{h1:?} {h2:?}");

    // Users see where; and which class serves what names none.
    let table = cluster.ok(&["get", "ingress", "chat"])?;
    assert!(table.contains("timonel") && table.contains("www.letschat.com") && table.contains(&address), "{table}");
    let old = cluster.kubectl_with(
        &["apply", "-f", "-"],
        "apiVersion: networking.k8s.io/v1beta1\nkind: Ingress\nmetadata: {name: old}\n",
    );
    assert!(
        old.code != 0
            && old.stderr.contains("no matches for kind \"Ingress\" in version \"networking.k8s.io/v1beta1\""),
        "{old:?}"
    );
    // A pod that comes in place of another one is found.
    cluster.ok(&["delete", "pod", "one"])?;
    assert!(ask("www.letschat.com", "/").starts_with("503"));
    cluster.apply(&site("one"))?;
    cluster.wait_pod("one")?;
    cluster.eventually("the new pod answers", || Ok(ask("www.letschat.com", "/").starts_with("200 one")))?;
    Ok(())
}

/// A site with TLS, whose certificate nobody knows.
const HIDDEN: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: hidden}
data:
  nginx.conf: |
    user root;
    pid /run/nginx.pid;
    error_log stderr;
    events {}
    http { access_log off; server {
      listen 443 ssl; ssl_certificate /cert/tls.crt; ssl_certificate_key /cert/tls.key;
      location / { return 200 \"hidden $request_uri $http_host $scheme\\n\"; } } }
---
apiVersion: v1
kind: Pod
metadata: {name: hidden, labels: {app: hidden}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: nginx:1.27
    command: [/usr/sbin/nginx, -c, /conf/nginx.conf, -g, 'daemon off;']
    volumeMounts: [{name: conf, mountPath: /conf}, {name: cert, mountPath: /cert}]
  volumes: [{name: conf, configMap: {name: hidden}}, {name: cert, secret: {secretName: hidden}}]
---
apiVersion: v1
kind: Service
metadata: {name: hidden}
spec: {selector: {app: hidden}, ports: [{port: 443}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: hidden, annotations: {nginx.ingress.kubernetes.io/backend-protocol: HTTPS}}
spec:
  rules:
  - {host: hidden.letschat.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: hidden, port: {number: 443}}}}]}}
";

#[test]
fn backends_may_speak_tls() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let folder = cluster.server.folder().join("tls");
    let authority = Authority::load_or_create(&folder, "ca")?;
    authority.load_or_issue(&folder, "cert", "hidden", None, &[Usage::Server], &["inside".into()])?;
    let files = ["crt", "key"].map(|kind| folder.join(format!("cert.{kind}")).display().to_string());
    let (cert, key) = (format!("--cert={}", files[0]), format!("--key={}", files[1]));
    cluster.ok(&["create", "secret", "tls", "hidden", &cert, &key])?;
    cluster.apply(HIDDEN)?;
    cluster.wait_pod("hidden")?;
    let url = format!("http://{}/x?y=z", cluster.server.address());
    let ask = || curl(&cluster, &["-H", "Host: hidden.letschat.com", &url]);
    cluster.eventually("the backend answers", || Ok(ask() == "200 hidden /x?y=z hidden.letschat.com https"))
}

/// A site that speaks HTTP/2 without TLS, as servers of gRPC do, and nothing else.
const REMOTE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: remote}
data:
  nginx.conf: |
    user root;
    pid /run/nginx.pid;
    error_log stderr;
    events {}
    http { access_log off; server {
      listen 80 http2; root /usr/share/nginx/html;
      location / { default_type application/grpc; add_header x-asked $server_protocol; try_files /index.html =404; } } }
---
apiVersion: v1
kind: Pod
metadata: {name: remote, labels: {app: remote}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: nginx:1.27
    command: [sh, -c, 'echo called > /usr/share/nginx/html/index.html; exec /usr/sbin/nginx -c /conf/nginx.conf -g \"daemon off;\"']
    volumeMounts: [{name: conf, mountPath: /conf}]
  volumes: [{name: conf, configMap: {name: remote}}]
---
apiVersion: v1
kind: Service
metadata: {name: remote}
spec: {selector: {app: remote}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: remote, annotations: {nginx.ingress.kubernetes.io/backend-protocol: GRPC}}
spec:
  tls: [{hosts: [remote.letschat.com]}]
  rules:
  - {host: remote.letschat.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: remote, port: {number: 80}}}}]}}
";

#[test]
fn backends_may_speak_http2_alone() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(REMOTE)?;
    cluster.wait_pod("remote")?;
    let resolve = format!("remote.letschat.com:443:{}", cluster.server.address());
    let words = ["curl", "-s", "-k", "-m", "5", "--http2", "-D", "-", "--resolve", &resolve];
    let words = words.into_iter().chain(["-H", "te: trailers", "https://remote.letschat.com/shop.Cart/Add"]);
    let words: Vec<String> = words.map(String::from).collect();
    let ask = || cluster.server.run(&words, "").stdout.to_ascii_lowercase().replace('\r', "");
    let mut last = String::new();
    let came = cluster.eventually("the backend answers", || {
        last = ask();
        Ok(last.starts_with("http/2 200"))
    });
    came.map_err(|error| anyhow::anyhow!("{error}: {last}"))?;
    assert!(last.contains("\nx-asked: http/2.0\n") && last.contains("called\n"), "{last}");
    Ok(())
}

/// Changes protocols once, and then says whatever it hears.
const ECHO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1.28
    command:
    - sh
    - -c
    - |
      mkfifo /f
      nc -l -p 80 < /f | {
        exec 3> /f
        while read -r line && [ ${#line} -gt 1 ]; do :; done
        printf 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n' >&3
        cat >&3
      }
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: echo}
spec:
  rules:
  - {host: echo.letschat.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: echo, port: {number: 80}}}}]}}
"#;

#[test]
fn connections_may_change_their_protocol() -> anyhow::Result<()> {
    use std::io::{Read as _, Write as _};
    let cluster = Cluster::start()?;
    cluster.apply(ECHO)?;
    cluster.wait_pod("echo")?;
    let address = cluster.server.address();
    let upgrade = || -> anyhow::Result<(String, std::net::TcpStream)> {
        let mut stream = std::net::TcpStream::connect((address.as_str(), 80))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: echo.letschat.com\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
            head.push(byte[0]);
        }
        Ok((String::from_utf8(head)?, stream))
    };
    let mut changed = None;
    cluster.eventually("the protocol is changed", || {
        let Ok((head, stream)) = cluster.server.inside(upgrade)? else { return Ok(false) };
        let done = head.starts_with("HTTP/1.1 101") && head.to_ascii_lowercase().contains("upgrade: echo");
        changed = Some(stream).filter(|_| done);
        Ok(done)
    })?;
    let mut stream = changed.context("it was changed")?;
    for words in ["one", "and another"] {
        stream.write_all(words.as_bytes())?;
        let mut heard = vec![0; words.len()];
        stream.read_exact(&mut heard)?;
        assert_eq!(heard, words.as_bytes());
    }
    Ok(())
}
