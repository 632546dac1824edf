//! Searches for copies of NVRTC and chooses one. PyTorch, for example, installs a copy.

use super::driver::Version;
use super::nvrtc::Nvrtc;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Names without a folder, which the dynamic loader searches for.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// The places to search for copies of NVRTC.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchPath {
    /// Names that the dynamic loader searches for.
    names: Vec<&'static str>,
    folders: Vec<PathBuf>,
}

impl SearchPath {
    /// The search path of this process: the loader's path, CUDA_HOME and CUDA_PATH, installed toolkits, the active
    /// virtual environment, conda's, the user's Python packages, and those of every Python on the PATH.
    pub fn of_process() -> Self {
        SearchPath {
            names: NAMES.to_vec(),
            ..SearchPath::of(&|name| std::env::var_os(name), Path::new("/"))
        }
    }

    /// The folders that environment variables name, and those of the toolkits and Pythons below `root`.
    fn of(variable: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Self {
        let path = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut folders = Vec::new();
        let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(path);
        for toolkit in toolkits.chain(matching(&root.join("usr/local"), "cuda")) {
            folders.extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|l| toolkit.join(l)));
        }
        // Installation folders of Python: each contains `lib/python3.X/site-packages`.
        let mut pythons: Vec<PathBuf> = path("VIRTUAL_ENV").into_iter().collect();
        if let Some(conda) = path("CONDA_PREFIX") {
            folders.push(conda.join("lib"));
            pythons.push(conda);
        }
        let user = path("PYTHONUSERBASE").or_else(|| Some(path("HOME")?.join(".local")));
        pythons.extend(user);
        for bin in std::env::split_paths(&variable("PATH").unwrap_or_default()) {
            let Some(above) = bin.parent().filter(|_| bin.join("python3").exists()) else {
                continue;
            };
            // pyenv puts small programs into `shims`, which is on the PATH, and the Pythons into `versions` beside it.
            match bin.ends_with("shims") {
                true => pythons.extend(matching(&above.join("versions"), "")),
                false => pythons.push(above.to_owned()),
            }
        }
        pythons.extend([root.join("usr/local"), root.join("usr")]);
        for python in pythons {
            let libraries = ["lib", "lib64"].map(|lib| matching(&python.join(lib), "python3"));
            for library in libraries.into_iter().flatten() {
                for packages in ["site-packages", "dist-packages"] {
                    let vendor = library.join(packages).join("nvidia");
                    folders.extend(matching(&vendor, "").into_iter().map(|f| f.join("lib")));
                }
            }
        }
        SearchPath {
            names: Vec::new(),
            folders,
        }
    }

    #[cfg(test)]
    pub(super) fn in_folders(folders: Vec<PathBuf>) -> Self {
        SearchPath {
            names: Vec::new(),
            folders,
        }
    }

    /// All copies, each file once, in the order of the search.
    fn files(&self) -> Vec<OsString> {
        let mut seen = BTreeSet::new();
        let mut files: Vec<OsString> = self.names.iter().map(|n| (*n).into()).collect();
        for file in self
            .folders
            .iter()
            .flat_map(|folder| matching(folder, "libnvrtc.so"))
        {
            // A folder usually contains one file and two links to it.
            if let Ok(real) = file.canonicalize()
                && seen.insert(real)
            {
                files.push(file.into());
            }
        }
        files
    }

    /// The newest copy whose major version is at max_major `max_major`, that of the driver. None if there is none.
    pub fn newest(&self, max_major: u32) -> Option<Nvrtc> {
        let mut best: Option<Nvrtc> = None;
        for file in self.files() {
            match Nvrtc::open(&file) {
                Ok(copy) if copy.version().0 > max_major => {
                    tracing::debug!("NVRTC {copy} is too new for a driver of CUDA {max_major}");
                }
                Ok(copy) => {
                    if best.as_ref().is_none_or(|b| copy.version() > b.version()) {
                        best = Some(copy);
                    }
                }
                Err(why) => tracing::debug!("{} is no NVRTC: {why}", file.display()),
            }
        }
        best
    }
}

/// The command that installs a copy of NVRTC for a driver of this CUDA version.
pub fn install_command(driver: Version) -> &'static str {
    match driver.0 {
        ..=12 => "pip install nvidia-cuda-nvrtc-cu12",
        _ => "pip install nvidia-cuda-nvrtc",
    }
}

/// Entries of a folder whose names begin with `prefix`, sorted; none if there is no such folder.
fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with(prefix))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::fake;
    use super::*;
    use std::collections::HashMap;

    /// A tree of empty files, and a search in it with environment variables that name paths below its root.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn with(files: &[&str]) -> Self {
            let tree = Tree(tempfile::tempdir().unwrap());
            for file in files {
                let path = tree.0.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, file).unwrap();
            }
            tree
        }

        fn search(&self, variables: &[(&str, &str)]) -> SearchPath {
            let root = self.0.path();
            let variables: HashMap<&str, OsString> = variables
                .iter()
                .map(|(name, path)| (*name, root.join(path).into()))
                .collect();
            SearchPath::of(&|name| variables.get(name).cloned(), root)
        }

        /// The files found, in order, relative to the root.
        fn found(&self, variables: &[(&str, &str)]) -> Vec<String> {
            let root = self.0.path();
            self.search(variables)
                .files()
                .iter()
                .map(|f| Path::new(f).strip_prefix(root).unwrap())
                .map(|f| f.to_str().unwrap().to_owned())
                .collect()
        }
    }

    #[test]
    fn copies_are_found_in_every_usual_place() {
        let wheel = "python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12";
        for (file, variables) in [
            ("usr/local/cuda-12.4/lib64/libnvrtc.so.12", &[][..]),
            ("toolkit/lib64/libnvrtc.so.12", &[("CUDA_HOME", "toolkit")]),
            ("toolkit/lib/libnvrtc.so.12", &[("CUDA_PATH", "toolkit")]),
            (
                "toolkit/targets/x86_64-linux/lib/libnvrtc.so.13",
                &[("CUDA_HOME", "toolkit")],
            ),
            (&format!("env/lib/{wheel}"), &[("VIRTUAL_ENV", "env")]),
            (
                "env/lib64/python3.9/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
                &[("VIRTUAL_ENV", "env")],
            ),
            ("conda/lib/libnvrtc.so.12", &[("CONDA_PREFIX", "conda")]),
            (&format!("conda/lib/{wheel}"), &[("CONDA_PREFIX", "conda")]),
            (&format!("home/.local/lib/{wheel}"), &[("HOME", "home")]),
            (&format!("base/lib/{wheel}"), &[("PYTHONUSERBASE", "base")]),
            (&format!("usr/local/lib/{wheel}"), &[]),
            (
                "usr/lib/python3/dist-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
                &[],
            ),
        ] {
            let tree = Tree::with(&[file]);
            assert_eq!(tree.found(variables), [file], "{variables:?}");
        }
    }

    #[test]
    fn the_packages_of_every_python_on_the_path_are_looked_at() {
        let wheel = "python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12";
        let opt = format!("opt/lib/{wheel}");
        let tree = Tree::with(&["opt/bin/python3", &opt, "other/bin/ls"]);
        assert_eq!(tree.found(&[("PATH", "opt/bin")]), [opt.as_str()]);
        assert!(tree.found(&[("PATH", "other/bin")]).is_empty());
        let version = format!("pyenv/versions/3.12.1/lib/{wheel}");
        let tree = Tree::with(&["pyenv/shims/python3", &version]);
        assert_eq!(tree.found(&[("PATH", "pyenv/shims")]), [version.as_str()]);
    }

    #[test]
    fn each_file_is_looked_at_once_and_nothing_else() {
        let tree = Tree::with(&[
            "usr/local/cuda-12.4/lib64/libnvrtc.so.12.4.127",
            "usr/local/cuda-12.4/lib64/libnvrtc-builtins.so.12.4",
            "usr/local/cuda-12.4/lib64/libnvrtc_static.a",
            "usr/local/cuda-12.4/lib64/libnvrtc.alt.so.12",
        ]);
        let folder = tree.0.path().join("usr/local/cuda-12.4/lib64");
        for name in ["libnvrtc.so", "libnvrtc.so.12"] {
            std::os::unix::fs::symlink("libnvrtc.so.12.4.127", folder.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("cuda-12.4", tree.0.path().join("usr/local/cuda")).unwrap();
        assert_eq!(tree.found(&[]), ["usr/local/cuda/lib64/libnvrtc.so"]);
        assert!(Tree::with(&[]).found(&[("HOME", "home")]).is_empty());
    }

    #[test]
    fn the_newest_copy_that_the_driver_runs_is_used() {
        let tree = Tree::with(&["usr/local/cuda-1/lib64/libnvrtc.so.12"]);
        let root = tree.0.path();
        for (folder, version) in [
            ("usr/local/cuda-11.8/lib64", (11, 8)),
            ("usr/local/cuda-12.1/lib64", (12, 1)),
            ("usr/local/cuda-12.9/lib64", (12, 9)),
            (
                "env/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib",
                (12, 9),
            ),
            ("env/lib/python3.12/site-packages/nvidia/cu13/lib", (13, 0)),
        ] {
            let name = format!("libnvrtc.so.{}", version.0);
            fake::build(&root.join(folder).join(name), version, &[]);
        }
        let search = tree.search(&[("VIRTUAL_ENV", "env")]);
        // The file that is not a library is skipped.
        assert_eq!(search.files().len(), 6);
        for (driver, newest) in [
            (14, Some((13, 0))),
            (13, Some((13, 0))),
            (12, Some((12, 9))),
            (11, Some((11, 8))),
            (10, None),
        ] {
            let found = search.newest(driver);
            assert_eq!(
                found.as_ref().map(Nvrtc::version),
                newest,
                "driver {driver}"
            );
            if let Some(found) = found.filter(|_| driver == 12) {
                // Of two copies of one version, the search takes the first.
                assert!(found.to_string().contains("cuda-12.9"), "{found}");
            }
        }
    }

    #[test]
    fn the_command_fits_the_driver() {
        for (driver, command) in [
            ((12, 0), "pip install nvidia-cuda-nvrtc-cu12"),
            ((12, 9), "pip install nvidia-cuda-nvrtc-cu12"),
            ((13, 0), "pip install nvidia-cuda-nvrtc"),
        ] {
            assert_eq!(install_command(driver), command);
        }
    }
}
