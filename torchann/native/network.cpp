// The network's Function as a node in C++: the sweeps of `torchann/sweeps.py` with the same ATen calls, for networks so
// small that Python takes longer than the arithmetic. Plain gradients only; where a backward pass is to be
// differentiated, it hands over to the Python path.
#include <ATen/LegacyBatchedTensorImpl.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/extension.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// One activation: f in place, and δ = ē ⊙ f′(z) from o, in a new tensor or written over ē.
struct Activation {
  std::function<void(Tensor&)> activate_;
  std::function<Tensor(const Tensor&, const Tensor&)> delta;
  std::function<void(Tensor&, const Tensor&)> delta_;
  bool slope_is_constant = false;
};

std::vector<Activation> ACTIVATIONS;  // set from Python, in the order of `NUMBERS` there

auto aten(const std::string& name, const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("aten::" + name).c_str(), overload);
}

// PyTorch's kernels of these names, called as at::sigmoid_backward and at::sigmoid_backward_out call theirs.
template <typename... Number>
Activation by_name(const std::string& f_in_place, const std::string& backward, Number... number) {
  const auto activate_ = aten(f_in_place, "").typed<Tensor&(Tensor&)>();
  const auto delta = aten(backward, "").typed<Tensor(const Tensor&, const Tensor&, const Number&...)>();
  const auto delta_into =
      aten(backward, "grad_input").typed<Tensor&(const Tensor&, const Tensor&, const Number&..., Tensor&)>();
  return {[=](Tensor& z) { activate_.call(z); },
          [=](const Tensor& e, const Tensor& o) { return delta.call(e, o, number...); },
          [=](Tensor& e, const Tensor& o) { delta_into.call(e, o, number..., e); }};
}

// For each activation `Activation.aten` of its row in `torchann/activations.py`; the identity's is empty.
void set_activations(const std::vector<py::tuple>& rows) {
  ACTIVATIONS.clear();
  for (const py::tuple& row : rows) {
    if (row.empty())
      ACTIVATIONS.push_back({[](Tensor&) {}, [](const Tensor& e, const Tensor&) { return e; },
                             [](Tensor&, const Tensor&) {}, /*slope_is_constant=*/true});
    else if (row.size() == 2)
      ACTIVATIONS.push_back(by_name(row[0].cast<std::string>(), row[1].cast<std::string>()));
    else
      ACTIVATIONS.push_back(by_name(
          row[0].cast<std::string>(), row[1].cast<std::string>(), at::Scalar(row[2].cast<double>())));
  }
}

using Optionals = std::vector<std::optional<Tensor>>;

std::optional<Tensor> as_optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

// ∂E/∂x, ∂E/∂W …, ∂E/∂b … by the Python path, which can be differentiated again.
variable_list by_python(
    const Tensor& grad_output, const std::optional<Tensor>& x, const Optionals& weights, const Optionals& biases,
    const Optionals& kept, const std::vector<int64_t>& activations, const std::vector<bool>& wanted) {
  py::gil_scoped_acquire gil;
  auto gradients = py::module_::import("torchann.native").attr("differentiable_gradients");
  auto found = gradients(grad_output, x, weights, biases, kept, activations, wanted).cast<Optionals>();
  variable_list result;
  for (auto& each : found) result.push_back(each.value_or(Tensor()));
  return result;
}

struct Network : public torch::autograd::Function<Network> {
  // `parameters` are W₁ … W_L and then the biases that exist; `bias_of[layer]` is the index of a layer's bias, or −1.
  // Saved are x, W₁ … W_L and the outputs, if the wanted gradients read them (as in `FirstOrder` in Python). `places` are
  // the parameters whose values are not read, but to which a second derivative has to find its way in the graph.
  static Tensor forward(
      AutogradContext* ctx, const Tensor& x, at::TensorList parameters, const std::vector<int64_t>& bias_of,
      const std::vector<int64_t>& activations) {
    const size_t depth = activations.size();
    const auto weight_wanted = [&](size_t layer) { return layer < depth && parameters[layer].requires_grad(); };
    variable_list saved = {weight_wanted(0) ? x : Tensor(), x.requires_grad() ? parameters[0] : Tensor()};
    saved.insert(saved.end(), parameters.begin() + 1, parameters.begin() + depth);
    Tensor o = x;
    for (size_t layer = 0; layer < depth; ++layer) {
      std::optional<Tensor> bias;
      if (bias_of[layer] >= 0) bias = parameters[depth + bias_of[layer]];
      o = at::linear(o, parameters[layer], bias);  // z = x Wᵀ + b, and then o = f(z) over it
      ACTIVATIONS[activations[layer]].activate_(o);
      const bool slope_reads_o = !ACTIVATIONS[activations[layer]].slope_is_constant;
      saved.push_back(slope_reads_o || weight_wanted(layer + 1) ? o : Tensor());
    }
    ctx->save_for_backward(saved);
    std::vector<Tensor> places(parameters.begin() + depth, parameters.end());
    places.push_back(parameters[0].requires_grad() ? parameters[0] : Tensor());
    ctx->saved_data["places"] = places;
    ctx->saved_data["bias_of"] = bias_of;
    ctx->saved_data["activations"] = activations;
    ctx->set_materialize_grads(false);
    return o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const auto bias_of = ctx->saved_data["bias_of"].toIntVector();
    const auto activations = ctx->saved_data["activations"].toIntVector();
    const size_t depth = activations.size();
    const auto biases = std::count_if(bias_of.begin(), bias_of.end(), [](int64_t place) { return place >= 0; });
    const size_t edges = 1 + depth + biases;  // x, weights, biases
    const Tensor& x = saved[0];
    const Tensor* weights = &saved[1];
    const Tensor* outputs = &saved[1 + depth];
    const auto bias_edge = [&](size_t layer) { return 1 + depth + bias_of[layer]; };

    variable_list gradients(edges + 2);  // none for the last two arguments
    Tensor error = grad_outputs[0];
    if (!error.defined()) return gradients;
    // Which gradients the engine wants from this call; only here is that known.
    const bool x_wanted = ctx->needs_input_grad(0);
    std::vector<bool> weight_wanted, bias_wanted;
    for (size_t layer = 0; layer < depth; ++layer) {
      weight_wanted.push_back(ctx->needs_input_grad(1 + layer));
      bias_wanted.push_back(bias_of[layer] >= 0 && ctx->needs_input_grad(bias_edge(layer)));
    }
    // δ is not written over the ē that autograd passed in, nor over a batched one (is_grads_batched), which has no
    // in-place kernel.
    const bool is_batched = at::isBatchedTensor(error);
    const bool is_watched = c10::impl::TorchDispatchModeTLS::stack_len() > 0;
    if (at::GradMode::is_enabled() || is_watched) {
      const auto places = ctx->saved_data["places"].toTensorVector();
      Optionals given_weights, given_biases(depth), kept;
      std::vector<bool> wanted = {x_wanted};
      for (size_t layer = 0; layer < depth; ++layer) {
        given_weights.push_back(as_optional(weights[layer]));
        kept.push_back(as_optional(outputs[layer]));
        if (bias_of[layer] >= 0) given_biases[layer] = places[bias_of[layer]];
      }
      if (!given_weights[0]) given_weights[0] = as_optional(places[biases]);
      wanted.insert(wanted.end(), weight_wanted.begin(), weight_wanted.end());
      wanted.insert(wanted.end(), bias_wanted.begin(), bias_wanted.end());
      const auto found = by_python(error, as_optional(x), given_weights, given_biases, kept, activations, wanted);
      for (size_t edge = 0; edge < 1 + depth; ++edge) gradients[edge] = found[edge];
      for (size_t layer = 0; layer < depth; ++layer)
        if (bias_of[layer] >= 0) gradients[bias_edge(layer)] = found[1 + depth + layer];
      return gradients;
    }
    size_t lowest = 0;
    while (!x_wanted && lowest < depth && !weight_wanted[lowest] && !bias_wanted[lowest]) ++lowest;
    for (size_t layer = depth; layer-- > lowest;) {
      const Activation& activation = ACTIVATIONS[activations[layer]];
      Tensor delta = error;
      if (layer == depth - 1 || is_batched) delta = activation.delta(error, outputs[layer]);
      else activation.delta_(delta, outputs[layer]);
      if (weight_wanted[layer]) gradients[1 + layer] = delta.t().mm(layer == 0 ? x : outputs[layer - 1]);
      if (bias_wanted[layer]) gradients[bias_edge(layer)] = delta.sum(0);
      if (layer > lowest || x_wanted) error = delta.mm(weights[layer]);
    }
    if (x_wanted) gradients[0] = error;
    return gradients;
  }
};

Tensor network(
    const Tensor& x, const variable_list& weights, const Optionals& biases, const std::vector<int64_t>& activations) {
  variable_list parameters = weights;
  std::vector<int64_t> bias_of;
  for (const auto& bias : biases) {
    bias_of.push_back(bias ? static_cast<int64_t>(parameters.size() - weights.size()) : -1);
    if (bias) parameters.push_back(*bias);
  }
  return Network::apply(x, at::TensorList(parameters), bias_of, activations);
}

}  // namespace

// In series.cpp
void activate_terms_(Tensor stack, std::vector<double> coefficients, std::array<double, 3> slope);
void delta_(Tensor grads, Tensor outputs, std::vector<double> coefficients, std::array<double, 3> slope);

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("network", &network);
  module.def("set_activations", &set_activations);
  module.def("activate_terms_", &activate_terms_, py::call_guard<py::gil_scoped_release>());
  module.def("delta_", &delta_, py::call_guard<py::gil_scoped_release>());
}
