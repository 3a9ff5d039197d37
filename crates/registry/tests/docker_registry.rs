//! Against the registry that Debian has (`scripts/images.sh` makes its root): pushing and pulling, who asks, and TLS.
//! Needs root; passes vacuously without it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use drover_model::Digest;
use drover_registry::{Access, Blob, Credentials, Manifest, Reference, Registry, RegistryError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// How long the registry may take to listen.
const START: Duration = Duration::from_secs(30);
/// `anna` with the password `se:cret`, by bcrypt.
const HTPASSWD: &str = "anna:$2y$05$abcdefghijklmnopqrstuuWqeDdmk0qhXLYvA33lbC9M700ynI2Oa\n";

/// A registry on loopback, gone when dropped, and also when the test is killed.
struct Server {
    process: Child,
    address: String,
    place: TempDir,
}

impl Server {
    /// Starts one in the root that has the program, on a port of the kernel's choice. `more` is added to its configuration,
    /// in which `PLACE` is a directory of its own.
    fn start(more: &str, files: &[(&str, &str)]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let home = std::env::var_os("DROVER_HOME").map_or_else(|| PathBuf::from("/var/lib/drover"), PathBuf::from);
        let root = home.join("cache/images/registry");
        assert!(root.exists(), "these tests need {}: run scripts/images.sh", root.display());
        let place = tempfile::tempdir_in(root.join("tmp")).unwrap();
        let inside = Path::new("/tmp").join(place.path().file_name().unwrap());
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: PLACE/data }} }}\n{more}\n"
        );
        let config = config.replace("PLACE", inside.to_str().unwrap());
        for (name, text) in files.iter().chain(&[("config.yml", config.as_str())]) {
            fs::write(place.path().join(name), text).unwrap();
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "chroot"]).arg(&root).args(["/usr/bin/docker-registry", "serve"]);
        command.arg(inside.join("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let (sender, listening) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let address: String =
                        rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
                    let _ = sender.send(address);
                }
            }
        });
        let address = listening.recv_timeout(START).expect("the registry listens");
        Some(Self { process, address, place })
    }

    fn repository(&self, access: Access, credentials: Option<Credentials>) -> (Reference, Registry) {
        let reference: Reference = format!("{}/shop/web:1", self.address).parse().unwrap();
        let registry = Registry::new(Arc::new(access), &reference, credentials);
        (reference, registry)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = &self.place;
    }
}

fn access(authorities: &[PathBuf]) -> Access {
    Access::new(authorities, Vec::new(), None).unwrap()
}

fn anna() -> Option<Credentials> {
    Some(Credentials { user: "anna".into(), password: "se:cret".into() })
}

fn file(bytes: &[u8]) -> (Blob, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    (Blob { digest: Digest::from_sha256(Sha256::digest(bytes).into()), size: bytes.len() as u64 }, file)
}

/// Pushes an image and pulls it again, whole and from its middle.
async fn there_and_back(reference: &Reference, registry: &Registry) {
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
    let ((layer, layer_file), (config, config_file)) = (file(&content), file(b"{}"));
    for (blob, file) in [(&layer, &layer_file), (&config, &config_file)] {
        assert!(!registry.has(&blob.digest).await.unwrap());
        registry.upload(blob, file).await.unwrap();
        assert!(registry.has(&blob.digest).await.unwrap());
    }
    let missing = registry.manifest(reference, "linux/amd64").await.unwrap_err();
    assert!(missing.is_unknown(), "{missing}");
    let manifest = Manifest { config: config.clone(), layers: vec![layer.clone()] };
    let digest = registry.put_manifest(reference, &manifest).await.unwrap();

    for wanted in [reference.clone(), reference.at(&digest)] {
        let pulled = registry.manifest(&wanted, "linux/amd64").await.unwrap();
        assert_eq!((pulled.digest, pulled.manifest), (digest.clone(), manifest.clone()));
    }
    assert_eq!(registry.small_blob(&config, 100).await.unwrap(), b"{}");
    for offset in [0, 2_000_000] {
        let mut came = Vec::new();
        let keep = |piece: &[u8]| {
            came.extend_from_slice(piece);
            Ok(())
        };
        assert!(registry.blob(&layer, offset as u64, keep).await.unwrap());
        assert!(came == content[offset..]);
    }
    let unknown = Blob { digest: Digest::from_sha256([7; 32]), size: 1 };
    assert!(registry.blob(&unknown, 0, |_| Ok(())).await.unwrap_err().is_unknown());
    let longer = Blob { size: layer.size + 1, ..layer.clone() };
    assert!(registry.blob(&longer, 0, |_| Ok(())).await.is_err(), "shorter than it should be");
    let wrong = Blob { digest: config.digest, size: layer.size };
    assert!(registry.upload(&wrong, &layer_file).await.is_err(), "not what its digest names");
}

#[tokio::test]
async fn an_image_goes_to_a_registry_and_comes_back() {
    let Some(server) = Server::start("http: { addr: \"127.0.0.1:0\" }", &[]) else { return };
    let (reference, registry) = server.repository(access(&[]), None);
    there_and_back(&reference, &registry).await;
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it_and_nobody_else_anything() {
    let auth = "http: { addr: \"127.0.0.1:0\" }\nauth: { htpasswd: { realm: drover, path: PLACE/htpasswd } }";
    let Some(server) = Server::start(auth, &[("htpasswd", HTPASSWD)]) else { return };
    let (reference, registry) = server.repository(access(&[]), anna());
    there_and_back(&reference, &registry).await;
    let wrong = Credentials { user: "anna".into(), password: "guess".into() };
    for credentials in [None, Some(wrong)] {
        let (reference, registry) = server.repository(access(&[]), credentials);
        let refused = registry.manifest(&reference, "linux/amd64").await.unwrap_err();
        assert!(refused.is_denied(), "{refused}");
    }
}

#[tokio::test]
async fn a_registry_with_tls_is_spoken_with_when_its_authority_is_known() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own_key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&own_key, &issuer).unwrap();
    let http = "http: { addr: \"127.0.0.1:0\", tls: { certificate: PLACE/cert.pem, key: PLACE/key.pem } }\n\
                auth: { htpasswd: { realm: drover, path: PLACE/htpasswd } }";
    let files = [("cert.pem", &own.pem()), ("key.pem", &own_key.serialize_pem()), ("ca.pem", &authority.pem())];
    let files = files.map(|(name, text)| (name, text.as_str()));
    let Some(server) = Server::start(http, &[&files[..], &[("htpasswd", HTPASSWD)]].concat()) else { return };
    let (reference, registry) = server.repository(access(&[server.place.path().join("ca.pem")]), anna());
    there_and_back(&reference, &registry).await;
    // It is on this machine, and may be spoken with in the clear; but who speaks TLS is not who that is for.
    let (reference, stranger) = server.repository(access(&[]), anna());
    let refused = stranger.manifest(&reference, "linux/amd64").await.unwrap_err();
    assert!(matches!(refused, RegistryError::Tls(..)), "{refused}");
}
