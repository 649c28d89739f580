"""What `--env` prints."""

from text_generation_launcher.bug_report import describe

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "2",
    "MODEL_ID": "someone/tiny",
    "API_KEY": "very secret",
    "HF_TOKEN": "very secret",
    "https_proxy": "http://user:very-secret@proxy:3128/",
    "SHELL": "/bin/sh",
}


def test_it_names_versions_machine_and_variables():
    lines = dict(line.partition(": ")[::2] for line in describe(ENVIRONMENT).splitlines())
    assert lines["text-generation-inference"] != "not installed"
    for name in ("python", "torch", "grpcio", "platform", "cpu", "cores", "memory", "nvidia-smi"):
        assert lines[name], name
    assert lines["CUDA_VISIBLE_DEVICES"] == "0"
    assert lines["MODEL_ID"] == "someone/tiny"
    assert "SHELL" not in lines


def test_secrets_are_masked():
    text = describe(ENVIRONMENT)
    assert "secret" not in text
    assert "API_KEY: ***" in text
    assert "https_proxy: http://***@proxy:3128/" in text
