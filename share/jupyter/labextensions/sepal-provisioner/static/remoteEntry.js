// A tile in JupyterLab's launcher that opens the dashboard. A prebuilt extension by hand: JupyterLab asks this container for
// the module `./extension`, and hands it the modules that all extensions share.
(window._JUPYTERLAB ??= {})["sepal-provisioner"] = (() => {
  const COMMAND = "sepal-provisioner:open-dashboard";
  const LABELS = { en: "Shared kernels", fr: "Noyaux partagés", es: "Kernels compartidos" };
  const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="16">
    <rect x="2" y="2" width="60" height="60" rx="13" fill="#1c6b4f"/>
    <path d="M32 12 52 22 32 32 12 22Z" fill="#f4f9f2"/>
    <g fill="none" stroke-width="4.5" stroke-linecap="round" stroke-linejoin="round">
      <path d="M12 31.5 32 41.5 52 31.5" stroke="#b9dfa5"/>
      <path d="M12 41 32 51 52 41" stroke="#7fbf7b"/>
    </g>
  </svg>`;
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
    const { LabIcon } = await load("@jupyterlab/ui-components");
    const icon = new LabIcon({ name: "sepal-provisioner:dashboard", svgstr: ICON });
    return {
      id: "sepal-provisioner:launcher",
      autoStart: true,
      optional: [ILauncher],
      activate: (app, launcher) => {
        const label = LABELS[document.documentElement.lang.slice(0, 2)] ?? LABELS.en;
        app.commands.addCommand(COMMAND, {
          label,
          icon,
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
