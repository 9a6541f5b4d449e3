//! Who a client is, by its credentials and by impersonation.

use super::*;

#[tokio::test]
async fn credentials_make_a_user_or_are_refused() {
    let server = Server::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    for name in ["robot", "default"] {
        server
            .create(accounts, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))
            .await;
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "robot", "nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/default/pods", pod).await;
    server.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    for (id, usage, expiration) in [
        ("aaaaaa", "true", "2999-01-01T00:00:00Z"),
        ("bbbbbb", "true", "2001-01-01T00:00:00Z"),
        ("cccccc", "false", ""),
    ] {
        let data = json!({"token-id": encode(id), "token-secret": encode("0123456789abcdef"), "expiration": encode(expiration),
            "usage-bootstrap-authentication": encode(usage), "auth-extra-groups": encode("system:bootstrappers:team,system:masters")});
        server
            .create(
                "/api/v1/namespaces/kube-system/secrets",
                json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                "metadata": {"name": format!("bootstrap-token-{id}")}, "data": data}),
            )
            .await;
    }

    let (code, user) = whoami(&server, Some(("anna", &["dev"])), &[]).await;
    assert_eq!(
        (code, &user["username"], &user["groups"]),
        (201, &json!("anna"), &json!(["dev", "system:authenticated"]))
    );
    assert_eq!(whoami(&server, None, &[]).await.0, 403, "nobody may ask only for health and version");
    for bad in [
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer bbbbbb.0123456789abcdef",
        "Bearer cccccc.0123456789abcdef",
        "Bearer aaaaaa.0123456789abcdee",
        "Bearer ",
    ] {
        let (code, status) = whoami(&server, Some(("anna", &["dev"])), &[("authorization", bad)]).await;
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")), "{bad}: {status}");
    }
    let bootstrap = [("authorization", "Bearer aaaaaa.0123456789abcdef")];
    let (_, user) = whoami(&server, None, &bootstrap).await;
    assert_eq!(user["username"], "system:bootstrap:aaaaaa");
    assert_eq!(
        user["groups"],
        json!(["system:bootstrappers", "system:bootstrappers:team", "system:authenticated"]),
        "and no more"
    );

    let (code, answer) =
        account_token(&server, json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}})).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_string();
    let bearer = format!("Bearer {token}");
    let (_, user) = whoami(&server, None, &[("authorization", &bearer)]).await;
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n"]));
    assert!(user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI="));
    for (spec, code, words) in [
        (json!({"expirationSeconds": 5}), 422, "10 minutes"),
        (json!({"boundObjectRef": {"kind": "Pod", "name": "gone"}}), 404, "not found"),
        (json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "other"}}), 409, "UID"),
        (json!({"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "p"}}), 400, "Kind=ConfigMap"),
    ] {
        let (got, answer) = account_token(&server, spec).await;
        assert!(got == code && answer["message"].as_str().unwrap().contains(words), "{answer}");
    }

    // A token for others is no key to this server, and can be reviewed by them.
    let (_, answer) = account_token(&server, json!({"audiences": ["vault"]})).await;
    let foreign = answer["status"]["token"].as_str().unwrap().to_string();
    assert_eq!(whoami(&server, None, &[("authorization", &format!("Bearer {foreign}"))]).await.0, 401);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    for (token, audiences, good) in [
        (&foreign, json!(["vault"]), true),
        (&foreign, json!(["other", "vault"]), true),
        (&foreign, json!([]), false),
        (&token, json!([]), true),
        (&token, json!(["vault"]), false),
        (&"aaaaaa.0123456789abcdef".to_string(), json!([]), true),
        (&"junk".to_string(), json!([]), false),
    ] {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        let (_, review) = server.json("POST", reviews, &body).await;
        assert_eq!(review["status"]["authenticated"], good, "{audiences}: {review}");
        assert_eq!(review["status"].get("error").is_some(), !good, "{review}");
    }
    // Others can check the signature themselves.
    let about = server.read("/.well-known/openid-configuration").await;
    assert_eq!(about["issuer"], "https://kubernetes.default.svc.cluster.local");
    assert!(about["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"));
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(server.read("/openid/v1/jwks").await).unwrap();
    let header = jsonwebtoken::decode_header(&foreign).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut wanted = jsonwebtoken::Validation::new(header.alg);
    wanted.set_audience(&["vault"]);
    assert_eq!(
        jsonwebtoken::decode::<Value>(&foreign, &key, &wanted).unwrap().claims["sub"],
        "system:serviceaccount:default:robot"
    );

    // With the pod goes its token; with the account go all.
    let (code, _) = server.json("DELETE", "/api/v1/namespaces/default/pods/p", &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code, 200);
    assert_eq!(whoami(&server, None, &[("authorization", &bearer)]).await.0, 401);
    let (_, answer) = account_token(&server, json!({})).await;
    let free = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    assert_eq!(whoami(&server, None, &[("authorization", &free)]).await.0, 201);
    let (code, _) = server.json("DELETE", &format!("{accounts}/robot"), &json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(whoami(&server, None, &[("authorization", &free)]).await.0, 401);
}

#[tokio::test]
async fn whoever_may_acts_as_another() {
    let server = Server::start().await;
    allow(
        &server,
        "boss",
        "poser",
        &[
            "impersonate||users|anna",
            "impersonate||groups|dev",
            "impersonate||serviceaccounts|robot",
            "impersonate|authentication.k8s.io|uids|7",
            "impersonate|authentication.k8s.io|userextras/scopes|view",
        ],
    )
    .await;
    let boss = ("boss", &[] as &[&str]);
    let act = |headers: &'static [(&'static str, &'static str)]| whoami(&server, Some(boss), headers);
    let (_, user) = act(&[
        ("impersonate-user", "anna"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-scopes", "view"),
    ])
    .await;
    assert_eq!(
        user,
        json!({"username": "anna", "groups": ["dev", "system:authenticated"], "uid": "7", "extra": {"scopes": ["view"]}})
    );
    let (_, user) = act(&[("impersonate-user", "system:serviceaccount:default:robot")]).await;
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    for (headers, words) in [
        (&[("impersonate-user", "root")][..], "cannot impersonate resource \"users\""),
        (
            &[("impersonate-user", "anna"), ("impersonate-group", "system:masters")],
            "cannot impersonate resource \"groups\"",
        ),
        (&[("impersonate-user", "anna"), ("impersonate-uid", "8")], "cannot impersonate resource \"uids\""),
        (
            &[("impersonate-user", "anna"), ("impersonate-extra-scopes", "edit")],
            "cannot impersonate resource \"userextras/scopes\"",
        ),
        (
            &[("impersonate-user", "system:serviceaccount:default:other")],
            "cannot impersonate resource \"serviceaccounts\"",
        ),
    ] {
        let (code, status) = whoami(&server, Some(boss), headers).await;
        assert!(code == 403 && status["message"].as_str().unwrap().contains(words), "{status}");
    }
    let (code, status) = act(&[("impersonate-group", "dev")]).await;
    assert!(code == 500 && status["message"].as_str().unwrap().contains("without impersonating a user"), "{status}");
    assert_eq!(whoami(&server, Some(("anna", &[])), &[("impersonate-user", "boss")]).await.0, 403);
    // As upstream: the headers of a request without credentials aren't passed over.
    let (code, status) = whoami(&server, None, &[("impersonate-user", "anna")]).await;
    assert!(code == 403 && status["message"].as_str().unwrap().contains("cannot impersonate resource"), "{status}");
}
