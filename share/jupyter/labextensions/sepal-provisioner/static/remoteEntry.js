// A tile in JupyterLab's launcher that opens the dashboard. A prebuilt extension by hand: JupyterLab asks this container for
// the module `./extension`, and hands it the modules that all extensions share.
(window._JUPYTERLAB ??= {})["sepal-provisioner"] = (() => {
  const COMMAND = "sepal-provisioner:open-dashboard";
  const LABELS = { en: "Shared kernels", fr: "Noyaux partagés", es: "Kernels compartidos" };
  let shared;

  /** A module that JupyterLab shares, whatever its version. */
  const load = async (name) => {
    const [version] = Object.values(shared[name]);
    return (await version.get())();
  };

  /** The page's own settings; `baseUrl` ends with a slash. */
  const pageConfig = () => JSON.parse(document.getElementById("jupyter-config-data").textContent);

  const extension = async () => {
    const { ILauncher } = await load("@jupyterlab/launcher");
    return {
      id: "sepal-provisioner:launcher",
      autoStart: true,
      optional: [ILauncher],
      activate: (app, launcher) => {
        const label = LABELS[document.documentElement.lang.slice(0, 2)] ?? LABELS.en;
        app.commands.addCommand(COMMAND, {
          label,
          caption: "Which shared kernels there are, and what is being built",
          execute: () => window.open(`${pageConfig().baseUrl}sepal`, "_blank", "noopener"),
        });
        launcher?.add({ command: COMMAND, category: "Other", rank: 100 });
      },
    };
  };

  return {
    init: (scope) => {
      shared = scope;
    },
    get: async (module) => {
      if (module !== "./extension") throw new Error(`There is no module ${module}`);
      const plugin = await extension();
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
