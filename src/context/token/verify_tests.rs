use super::super::crypto::{BadKey, parse_key};
use super::*;
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

const NOW: i64 = 800_000_000_000_000;
const NOW_UNIX: i64 = 800_000_000 + 946_684_800;
const SECOND: i64 = 1_000_000;
const SECRET: &[u8] = b"a secret of two and thirty bytes";

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for i in 0..=group.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]));
        }
    }
    text
}

fn ed_key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

fn ec_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()
}

fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac: Hmac<Sha256> = Hmac::new_from_slice(secret).unwrap();
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

fn sign(algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    match algorithm {
        Algorithm::Hs256 => hmac(SECRET, message),
        Algorithm::EdDsa => ed_key().sign(message).to_bytes().to_vec(),
        Algorithm::Es256 => {
            let signature: p256::ecdsa::Signature = ec_key().sign(message);
            signature.to_bytes().to_vec()
        }
    }
}

fn token(header: &Value, claims: &[u8], signature: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!(
        "{}.{}",
        base64(header.to_string().as_bytes()),
        base64(claims)
    );
    format!("{message}.{}", base64(&signature(message.as_bytes())))
}

fn claims() -> Value {
    json!({"sub": "ada", "aud": "db", "iss": "https://id.example", "exp": NOW_UNIX + 60})
}

fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            _ => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn good(algorithm: Algorithm, claims: &Value) -> String {
    let header = json!({"alg": algorithm.name(), "kid": "k1", "typ": "JWT"});
    token(&header, claims.to_string().as_bytes(), |m| {
        sign(algorithm, m)
    })
}

fn public_pem(algorithm: Algorithm) -> String {
    match algorithm {
        Algorithm::EdDsa => ed_key().verifying_key().to_public_key_pem(LineEnding::LF),
        _ => p256::PublicKey::from(ec_key().verifying_key()).to_public_key_pem(LineEnding::LF),
    }
    .unwrap()
}

fn key(algorithm: Algorithm) -> Key {
    let bytes = match algorithm {
        Algorithm::Hs256 => SECRET.to_vec(),
        _ => parse_key(algorithm, public_pem(algorithm).as_bytes()).unwrap(),
    };
    Key {
        algorithm,
        bytes,
        audience: "db".into(),
        issuer: Some("https://id.example".into()),
        subject: Subject::User,
    }
}

fn fault(claims: &Value) -> Fault {
    let token = good(Algorithm::EdDsa, claims);
    verify(&token, &key(Algorithm::EdDsa), NOW, 0).unwrap_err()
}

#[test]
fn each_algorithm_verifies_and_says_who() {
    for algorithm in Algorithm::ALL {
        let claims = with(
            json!({"org": "acme", "actor_type": "ai", "nbf": NOW_UNIX, "iat": NOW_UNIX, "more": [1]}),
        );
        let token = good(algorithm, &claims);
        assert_eq!(key_id(&token), Ok("k1".into()));
        let said = verify(&token, &key(algorithm), NOW, 5 * SECOND).unwrap();
        assert_eq!(
            said,
            Statement {
                subject: "ada".into(),
                org: Some("acme".into()),
                actor_type: "ai",
                until: NOW + 65 * SECOND,
            }
        );
        let plain = verify(
            &good(algorithm, &super::tests::claims()),
            &key(algorithm),
            NOW,
            0,
        )
        .unwrap();
        assert_eq!((plain.org, plain.actor_type), (None, "human"));
    }
}

#[test]
fn every_other_bit_is_refused() {
    for algorithm in Algorithm::ALL {
        let token = good(algorithm, &claims());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(
                changed == token || verify(&changed, &key(algorithm), NOW, 0).is_err(),
                "{algorithm:?} {at}"
            );
        }
        for cut in 0..token.len() {
            assert!(verify(&token[..cut], &key(algorithm), NOW, 0).is_err());
        }
    }
}

#[test]
fn a_key_of_another_algorithm_verifies_nothing() {
    for signed in Algorithm::ALL {
        for held in Algorithm::ALL.into_iter().filter(|held| *held != signed) {
            let fault = verify(&good(signed, &claims()), &key(held), NOW, 0).unwrap_err();
            assert_eq!(fault, Fault::WrongAlgorithm, "{signed:?} {held:?}");
        }
    }
}

#[test]
fn the_public_key_is_no_secret() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let pem = public_pem(algorithm);
        let key = key(algorithm);
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), &key.bytes] {
            for alg in ["HS256", "HS384", algorithm.name()] {
                let header = json!({"alg": alg, "kid": "k1"});
                let forged = token(&header, claims().to_string().as_bytes(), |m| {
                    hmac(secret, m)
                });
                let fault = verify(&forged, &key, NOW, 0).unwrap_err();
                assert!(
                    matches!(fault, Fault::WrongAlgorithm | Fault::BadSignature),
                    "{fault:?}"
                );
            }
        }
    }
}

#[test]
fn unsigned_tokens_are_refused() {
    for alg in ["none", "None", "NONE", "nOnE", "", "RS256", "HS512"] {
        for signature in [&b""[..], &[0; 32], &[0; 64]] {
            let header = json!({"alg": alg, "kid": "k1"});
            let forged = token(&header, claims().to_string().as_bytes(), |_| {
                signature.to_vec()
            });
            for algorithm in Algorithm::ALL {
                assert!(verify(&forged, &key(algorithm), NOW, 0).is_err(), "{alg}");
            }
        }
    }
    let unsigned = good(Algorithm::Es256, &claims());
    let (message, _) = unsigned.rsplit_once('.').unwrap();
    for end in ["", ".", ".AA"] {
        assert!(verify(&format!("{message}{end}"), &key(Algorithm::Es256), NOW, 0).is_err());
    }
}

#[test]
fn a_key_that_the_token_brings_along_counts_for_nothing() {
    let mine = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let header = json!({"alg": "EdDSA", "kid": "k1", "jku": "https://evil.example/keys", "jwk":
        {"kty": "OKP", "crv": "Ed25519", "x": base64(mine.verifying_key().as_bytes())}});
    let forged = token(&header, claims().to_string().as_bytes(), |m| {
        mine.sign(m).to_bytes().to_vec()
    });
    assert_eq!(
        verify(&forged, &key(Algorithm::EdDsa), NOW, 0).unwrap_err(),
        Fault::BadSignature
    );
}

#[test]
fn headers_that_are_refused_before_any_key_is_looked_up() {
    let head = |header: Value| key_id(&token(&header, b"{}", |_| vec![]));
    assert_eq!(head(json!({"alg": "EdDSA"})), Err(Fault::NoKid));
    assert_eq!(head(json!({"alg": "EdDSA", "kid": ""})), Err(Fault::NoKid));
    assert_eq!(
        head(json!({"alg": "EdDSA", "kid": "a\nb"})),
        Err(Fault::NoKid)
    );
    assert_eq!(
        head(json!({"alg": "EdDSA", "kid": "k".repeat(256)})),
        Err(Fault::NoKid)
    );
    assert_eq!(
        head(json!({"alg": "none", "kid": "k1"})),
        Err(Fault::Malformed)
    );
    assert_eq!(
        head(json!({"alg": "EdDSA", "kid": "k1", "crit": ["b64"], "b64": false})),
        Err(Fault::Critical)
    );
    assert_eq!(head(json!(["EdDSA"])), Err(Fault::Malformed));
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "ä.ö.ü",
        "a b.c.d",
        "e30.e30.e30",
        "\u{0}",
    ] {
        assert_eq!(key_id(text), Err(Fault::Malformed), "{text}");
    }
    assert_eq!(key_id(&"a".repeat(LONGEST + 1)), Err(Fault::TooLong));
    let long = good(
        Algorithm::Hs256,
        &with(json!({"more": "x".repeat(LONGEST)})),
    );
    assert_eq!(key_id(&long), Err(Fault::TooLong));
    assert_eq!(
        verify(&long, &key(Algorithm::Hs256), NOW, 0),
        Err(Fault::TooLong)
    );
}

#[test]
fn times_are_compared_with_leeway() {
    let at = |exp: Value, nbf: Value, iat: Value, leeway: i64| {
        let token = good(
            Algorithm::Hs256,
            &with(json!({"exp": exp, "nbf": nbf, "iat": iat})),
        );
        verify(&token, &key(Algorithm::Hs256), NOW, leeway * SECOND).map(|s| s.until - NOW)
    };
    let (now, none) = (NOW_UNIX, Value::Null);
    assert_eq!(
        at(json!(now + 1), none.clone(), none.clone(), 0),
        Ok(SECOND)
    );
    assert_eq!(
        at(json!(now as f64 + 0.5), none.clone(), none.clone(), 0),
        Ok(SECOND / 2)
    );
    assert_eq!(
        at(json!(now), none.clone(), none.clone(), 0),
        Err(Fault::Expired)
    );
    assert_eq!(
        at(json!(now - 10), none.clone(), none.clone(), 10),
        Err(Fault::Expired)
    );
    assert_eq!(
        at(json!(now - 9), none.clone(), none.clone(), 10),
        Ok(SECOND)
    );
    assert_eq!(
        at(json!(0), none.clone(), none.clone(), 10),
        Err(Fault::Expired)
    );
    assert!(at(json!(-1e300), none.clone(), none.clone(), 10).is_err());
    assert!(at(json!(1e300), none.clone(), none.clone(), 10).is_err());
    assert!(at(json!(9e15), none.clone(), none.clone(), 10).is_ok());
    assert!(at(json!(now + 60), json!(now), json!(now), 0).is_ok());
    assert_eq!(
        at(json!(now + 60), json!(now + 1), none.clone(), 0),
        Err(Fault::NotYet)
    );
    assert!(at(json!(now + 60), json!(now + 1), none.clone(), 1).is_ok());
    assert_eq!(
        at(json!(now + 60), none, json!(now + 1), 0),
        Err(Fault::NotYet)
    );
}

#[test]
fn claims_that_are_missing_or_of_the_wrong_kind() {
    for name in ["exp", "sub", "aud", "iss"] {
        let fault = fault(&with(json!({name: null})));
        assert!(
            matches!(fault, Fault::Claims | Fault::MissingClaim),
            "{name}: {fault:?}"
        );
    }
    for (name, value) in [
        ("exp", json!("4000000000")),
        ("exp", json!([1])),
        ("exp", json!(true)),
        ("nbf", json!("soon")),
        ("iat", json!({})),
        ("sub", json!(7)),
        ("sub", json!("")),
        ("sub", json!("a\u{0}b")),
        ("sub", json!("s".repeat(256))),
        ("org", json!("")),
        ("org", json!("a\nb")),
        ("org", json!(["acme"])),
        ("actor_type", json!("root")),
    ] {
        assert_eq!(
            fault(&with(json!({name: value}))),
            Fault::Claims,
            "{name} {value}"
        );
    }
    assert_eq!(fault(&with(json!({"aud": "other"}))), Fault::WrongAudience);
    assert_eq!(
        fault(&with(json!({"aud": ["other", "another"]}))),
        Fault::WrongAudience
    );
    assert_eq!(
        fault(&with(json!({"iss": "https://evil.example"}))),
        Fault::WrongIssuer
    );
    let listed = good(Algorithm::Hs256, &with(json!({"aud": ["other", "db"]})));
    assert!(verify(&listed, &key(Algorithm::Hs256), NOW, 0).is_ok());
}

#[test]
fn claims_that_are_no_json_or_say_a_thing_twice() {
    let twice = claims()
        .to_string()
        .replace("\"sub\":\"ada\"", "\"sub\":\"ada\",\"sub\":\"eve\"");
    for bytes in [
        &b""[..],
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"{\"sub\":\"\xc3\x28\"}",
        twice.as_bytes(),
    ] {
        let header = json!({"alg": "HS256", "kid": "k1"});
        let token = token(&header, bytes, |m| hmac(SECRET, m));
        assert_eq!(
            verify(&token, &key(Algorithm::Hs256), NOW, 0),
            Err(Fault::Claims),
            "{bytes:?}"
        );
    }
}

#[test]
fn keys_are_taken_for_their_own_algorithm_only() {
    use Algorithm::*;
    let (ed, ec) = (public_pem(EdDsa), public_pem(Es256));
    assert_eq!(
        parse_key(EdDsa, ed.as_bytes()).unwrap(),
        ed_key().verifying_key().to_bytes()
    );
    assert_eq!(parse_key(Es256, ec.as_bytes()).unwrap().len(), 65);
    let der = ed_key().verifying_key().to_public_key_der().unwrap();
    assert_eq!(
        parse_key(EdDsa, der.as_bytes()),
        parse_key(EdDsa, ed.as_bytes())
    );
    assert_eq!(parse_key(EdDsa, ec.as_bytes()), Err(BadKey::Unreadable));
    assert_eq!(parse_key(Es256, ed.as_bytes()), Err(BadKey::Unreadable));
    assert_eq!(parse_key(EdDsa, &[7; 32]), Err(BadKey::Unreadable));
    assert_eq!(parse_key(EdDsa, b""), Err(BadKey::Unreadable));
    for public in [ed.as_bytes(), ec.as_bytes(), der.as_bytes()] {
        assert_eq!(parse_key(Hs256, public), Err(BadKey::PublicAsSecret));
    }
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n";
    for algorithm in Algorithm::ALL {
        assert_eq!(
            parse_key(algorithm, private.as_bytes()),
            Err(BadKey::Private)
        );
        assert_eq!(parse_key(algorithm, &[0; 5000]), Err(BadKey::TooLong));
    }
    assert_eq!(parse_key(Hs256, &SECRET[..31]), Err(BadKey::TooShort));
    assert_eq!(parse_key(Hs256, SECRET).unwrap(), SECRET);
}

#[test]
fn a_key_of_small_order_is_refused() {
    // The neutral element: any message verifies against it in a lenient reader.
    let mut der = ed_key()
        .verifying_key()
        .to_public_key_der()
        .unwrap()
        .as_bytes()
        .to_vec();
    let at = der.len() - 32;
    der[at..].fill(0);
    der[at] = 1;
    assert_eq!(parse_key(Algorithm::EdDsa, &der), Err(BadKey::Unreadable));
}
