//! Registries that send elsewhere, want tokens, break off, or lie: each one played by a few lines here.

use std::io;
use std::sync::{Arc, Mutex};

use drover_model::Digest;
use drover_registry::{Access, Blob, Credentials, Reference, Registry, RegistryError};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What was asked, head by head.
type Heard = Arc<Mutex<Vec<String>>>;

/// Answers each connection's first request as `answer` says, and closes it.
async fn play(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            let mut byte = [0];
            // What is no text is TLS, which is not spoken here.
            while !head.ends_with(b"\r\n\r\n") && head.first().is_none_or(u8::is_ascii_uppercase) {
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            if !head.ends_with("\r\n\r\n") {
                // Taken as a whole, or the answer would be lost with what is left.
                let _ = stream.read(&mut [0; 4096]).await;
            }
            let answer = if head.ends_with("\r\n\r\n") {
                told.lock().unwrap().push(head.clone());
                answer(&head)
            } else {
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()
            };
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, heard)
}

fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn answer(head: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn registry(address: &str, credentials: Option<Credentials>) -> (Reference, Registry) {
    let reference: Reference = format!("{address}/web").parse().unwrap();
    let access = Access::new(&[], Vec::new(), None).unwrap();
    let registry = Registry::new(Arc::new(access), &reference, credentials);
    (reference, registry)
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::from_sha256(Sha256::digest(bytes).into()), size: bytes.len() as u64 }
}

fn credentials() -> Option<Credentials> {
    Some(Credentials { user: "anna".into(), password: "x".into() })
}

#[tokio::test]
async fn a_token_is_fetched_with_the_password_and_used_without() {
    let (issuer, asked) = play(|_| ok(br#"{"token": "abc"}"#)).await;
    let challenge =
        format!("Www-Authenticate: Bearer realm=\"http://{issuer}/token\",service=\"s\",scope=\"repository:web:pull\"");
    let (address, heard) = play(move |head| match head.contains("authorization: Bearer abc") {
        true => ok(b"content"),
        false => answer(&format!("401 Unauthorized\r\n{challenge}")),
    })
    .await;
    let (_, registry) = registry(&address, credentials());
    for _ in 0..2 {
        assert_eq!(registry.small_blob(&blob(b"content"), 100).await.unwrap(), b"content");
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1, "one token is enough: {asked:?}");
    assert!(asked[0].starts_with("GET /token?service=s&scope=repository%3Aweb%3Apull "), "{asked:?}");
    assert!(asked[0].contains("authorization: Basic "), "{asked:?}");
    assert!(heard.lock().unwrap().iter().all(|head| !head.contains("Basic")), "the password is for the issuer alone");
}

#[tokio::test]
async fn who_is_sent_elsewhere_takes_no_secret_along() {
    let (store, heard) = play(|_| ok(b"content")).await;
    let (address, _) = play(move |head| match head.contains("authorization: Basic") {
        true => answer(&format!("307 Temporary Redirect\r\nLocation: http://{store}/x?y=1")),
        false => answer("401 Unauthorized\r\nWww-Authenticate: Basic realm=\"r\""),
    })
    .await;
    let (_, registry) = registry(&address, credentials());
    assert_eq!(registry.small_blob(&blob(b"content"), 100).await.unwrap(), b"content");
    let heard = heard.lock().unwrap().clone();
    assert!(heard[0].starts_with("GET /x?y=1 ") && !heard[0].contains("authorization"), "{heard:?}");
}

#[tokio::test]
async fn nobody_is_sent_round_and_round_or_into_the_clear() {
    for place in ["/v2/again", "http://registry.example/x", "ftp://127.0.0.1/x", "http://user@127.0.0.1/x"] {
        let (address, heard) = play(move |_| answer(&format!("302 Found\r\nLocation: {place}"))).await;
        let (_, registry) = registry(&address, None);
        assert!(registry.small_blob(&blob(b"x"), 100).await.is_err(), "{place}");
        assert!(heard.lock().unwrap().len() <= 6);
    }
}

#[tokio::test]
async fn what_breaks_off_is_an_error_and_what_came_is_kept() {
    let (address, heard) = play(|head| match head.contains("range: bytes=4-") {
        true => b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nent".to_vec(),
        false => b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncont".to_vec(),
    })
    .await;
    let (_, registry) = registry(&address, None);
    let (wanted, mut came) = (blob(b"content"), Vec::new());
    let keep = |came: &mut Vec<u8>, piece: &[u8]| -> io::Result<()> {
        came.extend_from_slice(piece);
        Ok(())
    };
    let error = registry.blob(&wanted, 0, |piece| keep(&mut came, piece)).await.unwrap_err();
    assert!(error.is_passing() && came == b"cont", "{error}");
    assert!(registry.blob(&wanted, 4, |piece| keep(&mut came, piece)).await.unwrap());
    assert_eq!((came.as_slice(), heard.lock().unwrap().len()), (&b"content"[..], 2));
    // One that begins anew says so, and gives nothing.
    assert!(!registry.blob(&wanted, 5, |_| panic!("nothing is kept")).await.unwrap());
}

#[tokio::test]
async fn a_registry_that_lies_is_found_out() {
    let endless =
        b"HTTP/1.1 200 OK\r\n\r\n".iter().copied().chain(std::iter::repeat_n(b'x', 100_000)).collect::<Vec<_>>();
    let (address, _) = play(move |head| match head.contains("/blobs/") {
        true => endless.clone(),
        false => ok(b"{\"schemaVersion\": 2}"),
    })
    .await;
    let (reference, registry) = registry(&address, None);
    let (small, mut came) = (Blob { size: 1000, ..blob(b"y") }, 0);
    let keep = |piece: &[u8]| {
        came += piece.len();
        Ok(())
    };
    assert!(matches!(registry.blob(&small, 0, keep).await, Err(RegistryError::Answer { .. })));
    assert!(came <= 1000);
    let large = Blob { size: 100_000, ..small };
    assert!(matches!(registry.small_blob(&large, 200_000).await, Err(RegistryError::Different { .. })));
    assert!(matches!(registry.small_blob(&large, 1000).await, Err(RegistryError::Answer { .. })));
    assert!(matches!(registry.manifest(&reference, "linux/amd64").await, Err(RegistryError::Answer { .. })));
    let other = reference.at(&Digest::from_sha256([1; 32]));
    assert!(matches!(registry.manifest(&other, "linux/amd64").await, Err(RegistryError::Different { .. })));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_registrys_words() {
    let body = br#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "come back later"}]}"#;
    let (address, _) = play(|_| {
        [format!("HTTP/1.1 429 Too Many\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    })
    .await;
    let (reference, registry) = registry(&address, None);
    let error = registry.manifest(&reference, "linux/amd64").await.unwrap_err();
    assert_eq!(error.to_string(), format!("registry {address} refuses: 429 come back later"));
}
