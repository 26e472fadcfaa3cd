"""The tests that always run on the CPU, and the reasons."""

from __future__ import annotations

import pytest

__all__ = ["CPU_ALONE", "why_cpu_alone"]

CHOICES = "CSR and strips are taken there alone"
GLOO = "gloo is between processes there"
HOME = "its layer is built there"
MESSAGES = "its messages name it"
NUMPY = "numpy's arrays are there"
OWN = "it chooses its device itself"

CPU_ALONE = {
    "tests/_models/test_bake.py::test_a_baked_model_pickles_scripts_quantizes_and_exports": "PyTorch quantizes there",
    "tests/_models/test_distributed.py": GLOO,
    "tests/_models/test_fuse.py::test_a_fused_layer_multiplies_through_its_parametrization": CHOICES,
    "tests/_models/test_fuse.py::test_explain_says_the_product_and_why": CHOICES,
    "tests/_models/test_fuse.py::test_the_product_may_be_set_at_any_time": CHOICES,
    "tests/_models/test_fuse.py::test_the_sparse_product_is_there_without_mkl": CHOICES,
    "tests/_models/test_initialize.py::test_a_layer_too_large_to_be_dense_is_reset": HOME,
    "tests/_models/test_initialize.py::test_built_on_meta_moved_and_reset": HOME,
    "tests/_models/test_remask.py::test_training_resumes_exactly_in_a_fresh_process_from_the_first_mask": OWN,
    "tests/_models/test_remask.py::test_what_cannot_be_done_is_refused_and_changes_nothing": MESSAGES,
    "tests/_models/test_remask_distributed.py": GLOO,
    "tests/_models/test_tune.py::test_a_layer_that_the_model_does_not_call_is_named_and_stays": CHOICES,
    "tests/_models/test_tune.py::test_a_loop_is_timed_as_a_loop": CHOICES,
    "tests/_models/test_tune.py::test_every_way_of_every_layer_is_timed_and_the_fastest_is_taken": CHOICES,
    "tests/_models/test_tune.py::test_the_rows_print_as_a_table": CHOICES,
    "tests/_models/test_tune.py::test_the_way_with_the_smallest_median_is_taken": CHOICES,
    "tests/_models/test_whole_life.py::test_a_lightning_trainer_runs_saves_and_loads": OWN,
    "tests/_products/test_forms.py": "strips are looked for there",
    "tests/_products/test_onnx.py": NUMPY,
    "tests/_products/test_products.py::test_a_bias_of_another_kind_is_refused_as_by_a_layer": MESSAGES,
    "tests/_products/test_products.py::test_wrong_inputs_say_what_a_layer_needs": MESSAGES,
    "tests/_products/test_replaced_diagonal.py": "what is stored is looked at there alone",
    "tests/_products/test_unreachable.py": "positions are looked at there",
    "tests/_tour/": OWN,
    "tests/tools/": OWN,
    "tests/support/": OWN,
    "tests/test_alternatives.py": "it says what other libraries do there",
    "tests/test_bad_input.py": NUMPY,
    "tests/test_benchmarks": OWN,
    "tests/test_manual.py": OWN,
    "tests/test_masked_sparse.py::test_an_array_is_a_mask_too": NUMPY,
    "tests/test_masked_sparse.py::test_values_that_pytorch_could_not_copy_leave_the_mask_too": MESSAGES,
    "tests/test_notebooks.py": OWN,
    "tests/test_recommender.py": OWN,
    "tests/test_sparse_convolutions.py": OWN,
}
"""Reasons by the beginning of the test names."""


def why_cpu_alone(item: pytest.Item) -> str | None:
    """The reason why a test runs only on the CPU, or None if it runs on every device."""
    if isinstance(item, pytest.DoctestItem):
        return "an example shows what it prints there"
    return next((why for name, why in CPU_ALONE.items() if item.nodeid.startswith(name)), None)
