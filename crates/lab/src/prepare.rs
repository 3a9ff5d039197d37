//! The files of a lab that exist before its first process: certificates, configurations, specs, the context.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use drover_api::{Context, NodeEndpoint};
use time::OffsetDateTime;

use crate::certificate::{Authority, Identity};
use crate::error::StepError;
use crate::host::HostSpec;
use crate::place::Place;
use crate::plan::{HostPlan, Plan, USERS};
use crate::record::{Record, make_directory, write_file};
use crate::request;
use crate::up::UpError;

/// Writes the files of all hosts and of the user.
pub(crate) fn write_files(place: &Place, record: &Record, now: OffsetDateTime) -> Result<(), UpError> {
    let plan = record.plan();
    let authority = Authority::new(now).map_err(UpError::Certificate)?;
    write_users(place, &plan, &authority)?;
    make_directory(&place.namespaces())?;
    make_directory(&place.run().join("hosts"))?;
    for host in &plan.hosts {
        write_host(place, record, &plan, host, &authority)?;
    }
    Ok(())
}

/// The users' certificates, and a context for each: on this machine, and for the first one on the client.
fn write_users(place: &Place, plan: &Plan, authority: &Authority) -> Result<(), UpError> {
    let client = plan.client();
    let netns = Some(place.namespace(client.name.as_str()));
    make_directory(&place.run().join("users"))?;
    for (number, (name, _)) in USERS.into_iter().enumerate() {
        let user = authority.user(name).map_err(UpError::Certificate)?;
        write_identity(&place.tls(), name, &authority.pem(), &user)?;
        write_context(&place.user_context(name), plan, name, &place.tls(), netns.clone())?;
        if number == 0 {
            write_context(&place.context(), plan, name, &place.tls(), netns.clone())?;
            let inside = place.host(&client.name).join("upper/etc/drover");
            write_identity(&inside.join("tls"), name, &authority.pem(), &user)?;
            write_context(&inside.join("context.json"), plan, name, Path::new("/etc/drover/tls"), None)?;
        }
    }
    Ok(())
}

fn write_host(
    place: &Place,
    record: &Record,
    plan: &Plan,
    host: &HostPlan,
    authority: &Authority,
) -> Result<(), UpError> {
    let directory = place.host(&host.name);
    for part in ["upper/etc/drover", "work", "root", "state"] {
        make_directory(&directory.join(part))?;
    }
    // The overlay shows the mode of its upper directory as that of the host's root.
    let open = fs::Permissions::from_mode(0o755);
    for part in ["upper", "upper/etc"] {
        let path = directory.join(part);
        fs::set_permissions(&path, open.clone()).map_err(StepError::at("open", &path))?;
    }
    let etc = directory.join("upper/etc");
    write_file(&etc.join("hostname"), format!("{}\n", host.name).as_bytes(), 0o644)?;
    write_file(&etc.join("hosts"), plan.hosts_file().as_bytes(), 0o644)?;
    if let Some(config) = host.agent_config(plan) {
        write_file(&etc.join("drover/agent.toml"), config.as_bytes(), 0o644)?;
        let identity = authority.host(host).map_err(UpError::Certificate)?;
        write_identity(&etc.join("drover/tls"), "node", &authority.pem(), &identity)?;
    }
    let wanted = &record.wanted;
    let other = wanted.others.get(&host.name);
    let spec = HostSpec {
        name: host.name.to_string(),
        base: wanted.base.clone().unwrap_or_else(|| place.base()),
        upper: directory.join("upper"),
        work: directory.join("work"),
        root: directory.join("root"),
        state: directory.join("state"),
        programs: other.map_or_else(|| wanted.programs.clone(), |other| request::directory(other)),
        cgroups: record.cgroups.clone(),
        agent: other
            .map(|other| request::agent(other))
            .or_else(|| wanted.agent.clone())
            .filter(|_| host.number.is_some()),
        agent_log: place.agent_log(&host.name),
    };
    let text = serde_json::to_vec_pretty(&spec).expect("a spec is always JSON");
    write_file(&place.spec(&host.name), &text, 0o644)?;
    Ok(())
}

fn write_identity(directory: &Path, name: &str, authority: &str, identity: &Identity) -> Result<(), StepError> {
    make_directory(directory)?;
    write_file(&directory.join("ca.pem"), authority.as_bytes(), 0o644)?;
    write_file(&directory.join(format!("{name}.pem")), identity.cert.as_bytes(), 0o644)?;
    write_file(&directory.join(format!("{name}.key")), identity.key.as_bytes(), 0o600)
}

fn write_context(path: &Path, plan: &Plan, user: &str, tls: &Path, netns: Option<PathBuf>) -> Result<(), StepError> {
    let nodes = plan.nodes().map(|node| NodeEndpoint {
        name: node.name.clone(),
        address: node.agent_address(),
        netns: netns.clone(),
    });
    let context = Context {
        cluster: "lab".into(),
        ca: tls.join("ca.pem").into(),
        cert: tls.join(format!("{user}.pem")).into(),
        key: tls.join(format!("{user}.key")).into(),
        nodes: nodes.collect(),
    };
    let text = serde_json::to_vec_pretty(&context).expect("a context is always JSON");
    write_file(path, &text, 0o644)
}
