//! The routes of version 1. A constant is a pattern as axum and OpenAPI write it; a function fills it in.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// `GET`: what the node says about itself.
pub const NODE: &str = "/v1/node";
/// `GET`: what the node's machine can do.
pub const FEATURES: &str = "/v1/features";
/// `GET`: this API as an OpenAPI document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// `GET`: the last records of the audit log.
pub const AUDIT: &str = "/v1/audit";
/// `GET`: who belongs to the cluster; `PUT`: tell of a newer document.
pub const CLUSTER: &str = "/v1/cluster";
/// `POST`: a new certificate for the caller.
pub const RENEW: &str = "/v1/cluster/renew";
/// `POST`: have the node's own certificate renewed.
pub const ROTATE: &str = "/v1/cluster/rotate";
/// `POST`: a token with which one node may join.
pub const TOKENS: &str = "/v1/cluster/tokens";
/// `DELETE`: remove a node.
pub const CLUSTER_NODE: &str = "/v1/cluster/nodes/{name}";
/// `POST`: add a user.
pub const USERS: &str = "/v1/cluster/users";
/// `POST`: give a user another role; `DELETE`: remove the user.
pub const USER: &str = "/v1/cluster/users/{name}";
/// `POST`: join, on a connection of its own protocol and without a certificate; no route of the API.
pub const JOIN: &str = "/v1/join";
/// `GET`: all containers; `POST`: make one and start it.
pub const CONTAINERS: &str = "/v1/containers";
/// `GET`: one container; `DELETE`: remove it.
pub const CONTAINER: &str = "/v1/containers/{name}";
/// `POST`: start its program again.
pub const START: &str = "/v1/containers/{name}/start";
/// `POST`: end its program, softly first.
pub const STOP: &str = "/v1/containers/{name}/stop";
/// `POST`: send a signal.
pub const KILL: &str = "/v1/containers/{name}/kill";
/// `GET`: what it uses.
pub const STATS: &str = "/v1/containers/{name}/stats";
/// `GET`: what all containers use that run.
pub const ALL_STATS: &str = "/v1/stats";
/// `GET`: its output, one JSON record a line.
pub const LOGS: &str = "/v1/containers/{name}/logs";
/// `POST`, upgraded to a framed stream: its standard input and output.
pub const ATTACH: &str = "/v1/containers/{name}/attach";
/// `POST`, upgraded to a framed stream: another program inside it.
pub const EXEC: &str = "/v1/containers/{name}/exec";
/// `POST`: make an image of it.
pub const COMMIT: &str = "/v1/containers/{name}/commit";
/// `POST`: answers when its program has ended.
pub const WAIT: &str = "/v1/containers/{name}/wait";
/// `GET`: all images.
pub const IMAGES: &str = "/v1/images";
/// `GET`: one image; `POST`: import an archive under this name; `DELETE`: remove the name.
pub const IMAGE: &str = "/v1/images/{name}";
/// `POST`: remove images that nobody needs.
pub const PRUNE_IMAGES: &str = "/v1/prune/images";
/// `POST`: pull an image from a registry.
pub const PULL: &str = "/v1/registry/pull";
/// `POST`: push an image to a registry.
pub const PUSH: &str = "/v1/registry/push";
/// `GET`: all migrations away from this node; `POST`: begin one.
pub const MIGRATIONS: &str = "/v1/migrations";
/// `GET`: one migration, when it changes; `DELETE`: cancel it.
pub const MIGRATION: &str = "/v1/migrations/{id}";
/// `POST`: whether a container can be moved.
pub const CHECK: &str = "/v1/check";
/// `POST`: what a move would take.
pub const PLAN: &str = "/v1/plan";
/// `POST`: say whose the container of one in doubt is.
pub const RESOLVE: &str = "/v1/migrations/{id}/resolve";
/// `POST`: take nothing new, and move what runs elsewhere; `GET`: how that goes; `DELETE`: take what comes again.
pub const DRAIN: &str = "/v1/drain";
/// `POST`: begin no further move of a drain.
pub const CANCEL_DRAIN: &str = "/v1/drain/cancel";

/// `GET`: all volumes; `POST`: declare one.
pub const VOLUMES: &str = "/v1/volumes";
/// `GET`: one volume; `DELETE`: remove it.
pub const VOLUME: &str = "/v1/volumes/{name}";

/// `GET`: the copies of files of containers that are elsewhere.
pub const COPIES: &str = "/v1/copies";
/// `DELETE`: remove the copy of a container's files, by the container's id.
pub const COPY: &str = "/v1/copies/{id}";
/// `GET`: the difference between two images; `POST`: make an image of its base and such a difference.
pub const OVERLAY: &str = "/v1/overlay";

/// Every pattern.
pub const ALL: [&str; 40] = [
    NODE,
    FEATURES,
    OPENAPI,
    AUDIT,
    CLUSTER,
    RENEW,
    ROTATE,
    TOKENS,
    CLUSTER_NODE,
    USERS,
    USER,
    CONTAINERS,
    CONTAINER,
    START,
    STOP,
    KILL,
    STATS,
    ALL_STATS,
    LOGS,
    ATTACH,
    EXEC,
    COMMIT,
    WAIT,
    IMAGES,
    IMAGE,
    PRUNE_IMAGES,
    PULL,
    PUSH,
    OVERLAY,
    MIGRATIONS,
    MIGRATION,
    CHECK,
    PLAN,
    RESOLVE,
    DRAIN,
    CANCEL_DRAIN,
    VOLUMES,
    VOLUME,
    COPIES,
    COPY,
];

/// The value of the `Upgrade` header for `attach` and `exec`.
pub const STREAM_PROTOCOL: &str = "drover-stream";
/// The content type of a stream of JSON records, one a line.
pub const NDJSON: &str = "application/x-ndjson";
/// The content type of an overlay.
pub const OCTETS: &str = "application/octet-stream";
/// The header beside an overlay: an `OverlayReport`.
pub const OVERLAY_REPORT: &str = "drover-overlay";
/// The content type of an archive.
pub const TAR: &str = "application/x-tar";

/// What stays as it is in one segment of a path: the unreserved characters of RFC 3986, 2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path of `pattern` with its one placeholder replaced by `value`, percent-encoded.
#[must_use]
pub fn fill(pattern: &str, value: &str) -> String {
    let Some((before, rest)) = pattern.split_once('{') else { return pattern.to_owned() };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    format!("{before}{}{after}", utf8_percent_encode(value, SEGMENT))
}

/// The path with the parameters that are given, percent-encoded.
#[must_use]
pub fn with_query(path: String, parameters: &[(&str, &Option<String>)]) -> String {
    let given = parameters.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    given.fold(path, |path, (key, value)| {
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{path}{mark}{key}={}", utf8_percent_encode(value, SEGMENT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(fill(CONTAINER, "web"), "/v1/containers/web");
        assert_eq!(fill(LOGS, "a/../b?x#y"), "/v1/containers/a%2F..%2Fb%3Fx%23y/logs");
        assert_eq!(fill(IMAGE, "registry:5000/a/b:1"), "/v1/images/registry%3A5000%2Fa%2Fb%3A1");
        assert_eq!(fill(NODE, "x"), NODE);
    }

    #[test]
    fn a_value_cannot_leave_its_parameter() {
        let path = with_query("/v1/x".into(), &[("a", &Some("1&b=2".into())), ("b", &None), ("c", &Some("/".into()))]);
        assert_eq!(path, "/v1/x?a=1%26b%3D2&c=%2F");
    }
}
