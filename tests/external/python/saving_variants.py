"""Copies of examples/naive_ep.py that save and load in a way of their own, each wrong in one place but the first; see variants.py."""

from __future__ import annotations

_FORWARD = "    def forward(self, x_TD):"


def with_methods(methods: str) -> tuple[str, str]:
    return _FORWARD, methods.rstrip() + "\n\n" + _FORWARD


SOUND = {
    "saves_itself": with_methods('''
    def save(self, folder, batch):
        self.ctx.saves.write(folder, self.ctx.saves.held())

    def load_saved(self, folder):
        import moecheck.dtypes
        save = self.ctx.saves.open(folder)
        for one in self.ctx.saves.blank(save.names):
            one.put(moecheck.dtypes.to_torch(save.part(one.name, one.cuts)))
'''),
}

_OWN_OPTIMIZER = with_methods('''
    def named(self):
        return [(one.name.removeprefix("param/"), one) for one in self.ctx.saves.held() if one.name != "param/attention/w_DD"
                and one.name.startswith("param/")]

    def load(self):
        self.masters = {name: one.tensor.float() for name, one in self.named()}

    def step(self, learning_rate):
        weights = {"router/w_ED": self.w.router_ED, "experts/gate_up_EGD": self.w.gate_up_EGD, "experts/down_EDF": self.w.down_EDF}
        with torch.no_grad():
            for name, one in self.named():
                weight, master = weights[name], self.masters[name]
                master -= learning_rate * (weight.grad.float() + self.decay * master)
                weight.copy_(master)
                self.ctx.tap(f"optim/master/{name}", master, one.cuts)
                self.ctx.tap(f"optim/param/{name}", weight, one.cuts)

    def save(self, folder, batch):
        from moecheck.checkpoint_state import StateTensor
        masters = [StateTensor(f"optim/master/{name}", self.masters[name], one.cuts, one.global_shape) for name, one in self.named()]
        self.ctx.saves.write(folder, [*self.ctx.saves.held(), *masters])

    def load_saved(self, folder):
        from moecheck.dtypes import to_torch
        self.ctx.saves.read(folder)
        save = self.ctx.saves.open(folder)
        for name, one in self.named():
            self.masters[name] = to_torch(save.part(f"optim/master/{name}", one.cuts))
            self.ctx.tap(f"optim/master/{name}", self.masters[name], one.cuts)
''')

BRINGS_ITS_OPTIMIZER = {
    "own_optimizer": (_OWN_OPTIMIZER[0], _OWN_OPTIMIZER[1].replace("self.decay", "self.ctx.case.training.weight_decay")),
}

BROKEN = {
    "saves_experts_of_rank_0": with_methods('''
    def save(self, folder, batch):
        held = self.ctx.saves.held()
        self.ctx.saves.write(folder, [one.changed(self.ctx.comm.broadcast(one.tensor, 0, "ep")) if "experts" in one.name else one
                                      for one in held])
'''),
    "forgets_moments": with_methods('''
    def save(self, folder, batch):
        self.ctx.saves.write(folder, [one for one in self.ctx.saves.held() if not one.name.startswith(("optim/m/", "optim/v/"))])
'''),
    "saves_and_steps_on": with_methods('''
    def save(self, folder, batch):
        self.ctx.saves.write(folder)
        for one in self.ctx.saves.held():
            if batch > 0 and one.name == "optim/m/experts/down_EDF":
                one.put(torch.zeros_like(one.tensor))
'''),
    "loads_experts_of_another_rank": with_methods('''
    def load_saved(self, folder):
        import moecheck.dtypes
        save, other = self.ctx.saves.open(folder), 1 - self.ctx.rank
        for one in self.ctx.saves.blank(save.names):
            one.put(moecheck.dtypes.to_torch(save.part(one.name, one.cuts, other)))
'''),
    "loads_no_masters": with_methods('''
    def load_saved(self, folder):
        import moecheck.dtypes
        save = self.ctx.saves.open(folder)
        for one in self.ctx.saves.blank([name for name in save.names if not name.startswith("optim/master/")]):
            one.put(moecheck.dtypes.to_torch(save.part(one.name, one.cuts)))
'''),
    "forgets_where_the_data_goes_on": with_methods('''
    def load_saved(self, folder):
        import moecheck.dtypes
        save = self.ctx.saves.open(folder)
        for one in self.ctx.saves.blank([name for name in save.names if name != "state/batches_1"]):
            one.put(moecheck.dtypes.to_torch(save.part(one.name, one.cuts)))
'''),
}

SAVES_WHAT_IT_LOADED = {
    "saves_what_it_loaded": with_methods('''
    def load(self):
        self.loaded = [one.changed(one.tensor.clone()) for one in self.ctx.saves.held()]

    def save(self, folder, batch):
        self.ctx.saves.write(folder, self.loaded)
'''),
}

# Verdicts without a judgement; those of which ranks are left as they were come first.
REFUSED = {
    "secret_optimizer": with_methods('''
    def step(self, learning_rate):
        pass
'''),
    "hides_its_attention": with_methods('''
    def load(self):
        del self.ctx.params[0]
'''),
    "hides_its_choices": ('tap("router/ids_TK", ids_TK)', "ids_TK"),
    "saves_router_of_its_own": with_methods('''
    def save(self, folder, batch):
        self.ctx.saves.write(folder, [one.changed(one.tensor + self.ctx.rank) if one.name == "param/router/w_ED" else one
                                      for one in self.ctx.saves.held()])
'''),
    "damages": with_methods('''
    def save(self, folder, batch):
        self.ctx.saves.write(folder)
        if self.ctx.rank == 1:
            with open(folder / "rank1.safetensors", "r+b") as file:
                file.seek(-5, 2)
                file.write(b"?")
'''),
}
