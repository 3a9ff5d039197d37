//! The trees of files that travel with a container, in the same order on both nodes.

use std::path::PathBuf;

use drover_disk::delta::{Place, Tree};
use drover_model::{Explained, VolumeName};

use crate::container::Container;
use crate::error::failure;

/// A tree that travels.
struct Travels {
    tree: Tree,
    /// Of one on disk.
    kept: Option<Kept>,
}

/// A tree that can stay behind when its container leaves.
struct Kept {
    /// What it is called among the container's.
    name: String,
    /// The volume that it is.
    volume: Option<VolumeName>,
    /// The directory beside it, on its file system, in which files are put aside while it arrives.
    aside: PathBuf,
}

fn travelling(container: &Container) -> Vec<Travels> {
    let layout = &container.layout;
    let on_disk = |name: String, volume: Option<VolumeName>, path: PathBuf| {
        let mut aside = path.clone().into_os_string();
        aside.push("-aside");
        Travels { tree: Tree { path, in_memory: false }, kept: Some(Kept { name, volume, aside: aside.into() }) }
    };
    let in_memory = |path| Travels { tree: Tree { path, in_memory: true }, kept: None };
    let mut travelling = vec![
        on_disk("upper".to_owned(), None, layout.upper()),
        on_disk("log".to_owned(), None, layout.log()),
        in_memory(layout.dev()),
        in_memory(layout.shm()),
    ];
    for (path, volume) in container.volumes.travelling(&container.spec(), layout) {
        travelling.push(match volume {
            Some(volume) => on_disk(format!("volume-{volume}"), Some(volume), path),
            None => in_memory(path),
        });
    }
    travelling
}

/// The trees on disk that are the container's own, by the names that they have among them. A volume of one that was refused
/// may be another one's.
pub(crate) fn own_on_disk(container: &Container) -> Vec<(String, PathBuf)> {
    let own = |kept: &Kept| kept.volume.as_ref().is_none_or(|volume| container.volumes.belongs(volume, &container.id));
    let travelling = travelling(container).into_iter();
    travelling.filter_map(|Travels { tree, kept }| Some((kept.filter(own)?.name, tree.path))).collect()
}

/// What the source sends.
pub(crate) fn trees(container: &Container) -> Vec<Tree> {
    travelling(container).into_iter().map(|travels| travels.tree).collect()
}

/// Where it arrives on the target, with room to put files aside.
pub(crate) fn places(container: &Container) -> Result<Vec<Place>, Explained> {
    let place = |travels: Travels| {
        let Travels { tree: Tree { path, .. }, kept } = travels;
        let aside = kept.map(|kept| kept.aside);
        aside.iter().try_for_each(std::fs::create_dir_all).map(|()| Place { path, aside })
    };
    let places: Result<_, std::io::Error> = travelling(container).into_iter().map(place).collect();
    places.map_err(|error| failure("cannot make room for the container's files", &error))
}

/// Removes that room, which is empty, once all has arrived.
pub(crate) fn clear(container: &Container) {
    for Kept { aside, .. } in travelling(container).into_iter().filter_map(|travels| travels.kept) {
        if let Err(error) = std::fs::remove_dir(&aside) {
            tracing::debug!(%error, path = %aside.display(), "no room to clear");
        }
    }
}
